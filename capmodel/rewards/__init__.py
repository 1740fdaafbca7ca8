"""What captions are worth to training, by CIDEr-D, for whole batches at once: drawn ones to self-critical training,
people's to cross-entropy. Torch-free.
"""

from captionbeam.capmodel.rewards.cider_d import CiderReward, PackedReferences
from captionbeam.capmodel.rewards.consensus import consensus_weights
from captionbeam.capmodel.rewards.reading import CaptionReader
from captionbeam.capmodel.rewards.split import SplitReward

__all__ = ["CaptionReader", "CiderReward", "PackedReferences", "SplitReward", "consensus_weights"]
