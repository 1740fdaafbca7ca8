"""What captions are worth to training, by CIDEr-D, for whole batches at once: drawn ones to self-critical training,
people's to cross-entropy. Torch-free.
"""

from captionbeam.capmodel.self_critical.rewards.cider_d import CiderReward, PackedReferences
from captionbeam.capmodel.self_critical.rewards.consensus import consensus_weights
from captionbeam.capmodel.self_critical.rewards.reading import CaptionReader
from captionbeam.capmodel.self_critical.rewards.split import SplitReward

__all__ = ["CaptionReader", "CiderReward", "PackedReferences", "SplitReward", "consensus_weights"]
