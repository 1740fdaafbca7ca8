"""What a sampled caption is worth to self-critical training: CIDEr-D, for whole batches at once. Torch-free."""

from capmodel.rewards.cider_d import CiderReward, PackedReferences
from capmodel.rewards.reading import CaptionReader
from capmodel.rewards.split import SplitReward

__all__ = ["CaptionReader", "CiderReward", "PackedReferences", "SplitReward"]
