"""Training data: features joined with captions, read in a shuffled order that can be resumed; torch datasets."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.data.cache import GridCache
    from captionbeam.capmodel.data.dataset import Data
    from captionbeam.capmodel.data.epochs import Epochs
    from captionbeam.capmodel.data.loader import Batch, CaptionTokens, FeatureReader
    from captionbeam.capmodel.data.pairing import Samples, pair
    from captionbeam.capmodel.data.sampler import sequential_steps, shuffled_steps
    from captionbeam.capmodel.data.torch_datasets import FeatureDataset, IterableFeatureDataset

__all__ = ["Batch", "CaptionTokens", "Data", "Epochs", "FeatureDataset", "FeatureReader", "GridCache",
           "IterableFeatureDataset", "Samples", "pair", "sequential_steps", "shuffled_steps"]  # fmt: skip

__getattr__ = lazy_names(
    __name__,
    cache="GridCache",
    dataset="Data",
    epochs="Epochs",
    loader="Batch CaptionTokens FeatureReader",
    pairing="Samples pair",
    sampler="sequential_steps shuffled_steps",
    torch_datasets="FeatureDataset IterableFeatureDataset",
)
