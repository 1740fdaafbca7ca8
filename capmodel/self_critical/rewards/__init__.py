"""CIDEr-D rewards for whole batches: of sampled captions, and of human captions as cross-entropy weights.

Does not import torch.
"""

from captionbeam.capmodel.self_critical.rewards.cider_d import CiderReward, PackedReferences, SplitReward
from captionbeam.capmodel.self_critical.rewards.consensus import consensus_weights
from captionbeam.capmodel.self_critical.rewards.reading import CaptionReader

__all__ = ["CaptionReader", "CiderReward", "PackedReferences", "SplitReward", "consensus_weights"]
