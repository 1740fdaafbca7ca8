"""Convolutional networks as encoders, their classifiers cut off: images to a grid ``[n, C, H, W]``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from capmodel import efficientnet
from capmodel.preprocess import Preprocess
from capmodel.weights import State, load_into


@dataclass(frozen=True)
class Backbone:
    """One architecture: how it is built, what its grid is, what its own weights are and want.

    build:      a network of images ``[n, 3, S, S]``.
    channels:   C.
    cells:      the grid's side for images of S pixels.
    ignored:    prefixes of keys that published weights hold and features do not need.
    presets:    the preprocessing of each published set of weights, by its name; the first is the default, and
                that of weights in a file.
    """

    build: Callable[[], nn.Module]
    channels: int
    cells: Callable[[int], int]
    ignored: tuple[str, ...]
    presets: Mapping[str, Preprocess]

    @property
    def default(self) -> str:
        """The name of the weights that are taken where none are named."""
        return next(iter(self.presets))

    def trunk(self, state: State) -> State:
        """``state`` without the classifier and what else is ignored."""
        return {key: value for key, value in state.items() if not key.startswith(self.ignored)}


def resnet50() -> nn.Module:
    """torchvision's ResNet-50 (He et al. 2016) up to ``layer4``: ``[n, 2048, 7, 7]`` for images of 224."""
    from torchvision.models import resnet50  # torchvision takes seconds, and not every encoder needs it

    children = resnet50(weights=None).named_children()
    return nn.Sequential(
        OrderedDict((name, child) for name, child in children if name not in ("avgpool", "fc"))
    )


def inception_v3() -> nn.Module:
    """torchvision's InceptionV3 up to ``Mixed_7c``: ``[n, 2048, 8, 8]`` for images of 299."""
    from capmodel.inception import InceptionV3

    return InceptionV3()


def inception_cells(size: int) -> int:
    """Side of InceptionV3's grid for images of ``size`` x ``size`` pixels: 8 for 299."""
    side = (size - 3) // 2 + 1  # Conv2d_1a
    side = (side - 2 - 3) // 2 + 1  # Conv2d_2a, maxpool1
    side = (side - 2 - 3) // 2 + 1  # Conv2d_4a, maxpool2
    side = (side - 3) // 2 + 1  # Mixed_6a
    return (side - 3) // 2 + 1  # Mixed_7a


def half_five_times(size: int) -> int:
    """Side of the grid of a network that halves its padded input five times."""
    return -(-size // 32)


BACKBONES = {
    # torchvision scales this one to ImageNet's mean and std, and then back to [-1, 1]: tf, in one step.
    "inception_v3": Backbone(
        inception_v3,
        2048,
        inception_cells,
        ("fc.", "AuxLogits."),
        {"IMAGENET1K_V1": Preprocess(299, 342, scaling="tf")},
    ),
    "resnet50": Backbone(
        resnet50,
        2048,
        half_five_times,
        ("fc.",),
        {"IMAGENET1K_V2": Preprocess(224, 232), "IMAGENET1K_V1": Preprocess(224, 256)},
    ),
    "efficientnet_lite0": Backbone(
        efficientnet.EfficientNetLite0,
        efficientnet.CHANNELS,
        half_five_times,
        ("_fc.",),
        {"PYPI": Preprocess(224, 256, "square-crop", "bicubic", scaling="lite")},
    ),
}


def ready(name: str, state: State, pool_padding: bool, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The network with ``state`` in it, for inference: batch norms folded, channels last.

    Raises RequestError where keys or shapes of ``state`` are not the network's.
    """
    with torch.device("meta"):
        network: Any = BACKBONES[name].build()
    load_into(network, state, name)
    network.eval().requires_grad_(False)
    if not pool_padding:
        network.count_pool_padding(pool_padding)
    fold_batch_norm(network)
    network.to(device=device, dtype=dtype)
    return network.to(memory_format=torch.channels_last)


def fold_batch_norm(network: nn.Module) -> None:
    """Fold each batch norm into the convolution before it: the same numbers, but for rounding, 15% faster."""
    for module in network.modules():
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
