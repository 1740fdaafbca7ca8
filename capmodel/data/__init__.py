"""Training data: features joined with captions, read in a shuffled order that can be resumed; torch datasets."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.data.torch_datasets import FeatureDataset, IterableFeatureDataset

__all__ = [
    "FeatureDataset",
    "IterableFeatureDataset",
    "cache",
    "dataset",
    "epochs",
    "loader",
    "pairing",
    "sampler",
]

__getattr__ = lazy_names(__name__, torch_datasets="FeatureDataset IterableFeatureDataset")
