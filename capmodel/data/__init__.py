"""Training data: joining images with captions, sampling order, reading features, and torch datasets of a store."""

from __future__ import annotations

from typing import Any

__all__ = ["FeatureDataset", "IterableFeatureDataset"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from captionbeam.capmodel.data import torch_datasets  # imports torch, which launchers need not load

        return getattr(torch_datasets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
