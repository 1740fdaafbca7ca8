"""What captions are worth to training, by CIDEr-D, for whole batches at once: drawn ones to self-critical training,
people's to cross-entropy. Torch-free.
"""

from capmodel.rewards.cider_d import CiderReward, PackedReferences
from capmodel.rewards.consensus import consensus_weights
from capmodel.rewards.reading import CaptionReader
from capmodel.rewards.split import SplitReward

__all__ = ["CaptionReader", "CiderReward", "PackedReferences", "SplitReward", "consensus_weights"]
