"""The preprocessing of published weights, as their publishers define it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from captionbeam.capmodel.encoders.preprocess import Preprocess, scaling_of

# For these, torchvision normalises with ImageNet's mean and std, and the network converts back to [-1, 1]
# (``transform_input``). The scaling ``tf`` does both in one step.
SCALED_INSIDE = ("inception_v3", "googlenet")


def torchvision_presets(name: str) -> Mapping[str, Preprocess]:
    """Returns the preprocessing of each published set of weights, from ``Weights.transforms()``."""
    from torchvision.models import get_model_weights  # slow import (seconds)

    return {each.name: _preset(name, each.transforms()) for each in get_model_weights(name)}


def default_torchvision_weights(name: str) -> str:
    """Returns the name of the weights that torchvision calls DEFAULT."""
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name)
    return str(weights.DEFAULT.name)


def _preset(name: str, transforms: Any) -> Preprocess:
    (size,), (resize,) = transforms.crop_size, transforms.resize_size
    scaling = "tf" if name in SCALED_INSIDE else scaling_of(transforms.mean, transforms.std)
    return Preprocess(size, resize, interpolation=transforms.interpolation.value, scaling=scaling)
