"""The preprocessing that published weights were made with, as their publishers say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from captionbeam.capmodel.encoders.preprocess import Preprocess, scaling_of

# torchvision's ported TensorFlow weights scale to ImageNet's mean and std, and then, inside of the network
# (``transform_input``), back to [-1, 1]: tf, in one step.
SCALED_INSIDE = ("inception_v3", "googlenet")


def of_torchvision(name: str) -> Mapping[str, Preprocess]:
    """By the name of the weights: what ``Weights.transforms()`` does."""
    from torchvision.models import get_model_weights  # takes seconds

    return {each.name: _preset(name, each.transforms()) for each in get_model_weights(name)}


def default_of_torchvision(name: str) -> str:
    """The weights that torchvision calls DEFAULT."""
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name)
    return str(weights.DEFAULT.name)


def _preset(name: str, transforms: Any) -> Preprocess:
    (size,), (resize,) = transforms.crop_size, transforms.resize_size
    scaling = "tf" if name in SCALED_INSIDE else scaling_of(transforms.mean, transforms.std)
    return Preprocess(size, resize, interpolation=transforms.interpolation.value, scaling=scaling)
