"""Backbone networks without their classifiers: found by name and loaded with weights for inference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from captionbeam.capmodel.encoders.backbones import families
from captionbeam.capmodel.encoders.backbones.base import Backbone, fold_batch_norm
from captionbeam.capmodel.encoders.backbones.families import Convolutional, DenseNet, EfficientNetLite
from captionbeam.capmodel.encoders.backbones.vit import Vit
from captionbeam.capmodel.encoders.names import (
    CONVNEXTS,
    DENSENETS,
    EFFICIENTNETS,
    ENCODERS,
    GOOGLENET,
    HUGGING_FACE,
    INCEPTION_V3,
    RESNETS,
    TIMM,
    VITS,
    encoder_choices,
)
from captionbeam.capmodel.encoders.weights import State, load_into
from captionbeam.capmodel.runtime.device import one_thread
from captionbeam.schemas.errors import RequestError

__all__ = ["BACKBONES", "Backbone", "get_backbone", "load_network", "open_backbone", "shape_of"]

# Grid channels that differ from the rest of the family.
WIDTHS = {
    "resnet18": 512, "resnet34": 512, "densenet161": 2208, "densenet169": 1664, "densenet201": 1920,
    "efficientnet_b2": 1408, "efficientnet_b3": 1536, "efficientnet_b4": 1792, "efficientnet_b5": 2048,
    "efficientnet_b6": 2304, "efficientnet_b7": 2560, "convnext_base": 1024, "convnext_large": 1536,
}  # fmt: skip
NO_LOGITS = ("grid", "pooled")  # for networks that are built without their classifier


def _convolutional(name: str) -> Backbone:
    """Returns the backbone of that name, which is not a ViT."""
    half = families.half_five_times
    if name in RESNETS:
        return Convolutional(name, WIDTHS.get(name, 2048), half, ("fc.",), families.resnet)
    if name in DENSENETS:
        return DenseNet(
            name, WIDTHS.get(name, 1024), families.densenet_grid, ("classifier.",), families.densenet
        )
    if name in EFFICIENTNETS:
        return Convolutional(name, WIDTHS.get(name, 1280), half, ("classifier.",), families.efficientnet)
    if name in CONVNEXTS:
        return Convolutional(
            name, WIDTHS.get(name, 768), families.convnext_grid, ("classifier.",), families.convnext
        )
    auxiliary = ("fc.", "aux1.", "aux2.")  # auxiliary classifiers, used in training only
    if name == GOOGLENET:
        return Convolutional(name, 1024, families.googlenet_grid, auxiliary, families.googlenet)
    if name == INCEPTION_V3:
        ignored, make = ("fc.", "AuxLogits."), families.inception_v3
        return Convolutional(name, 2048, families.inception_v3_grid, ignored, make, NO_LOGITS)
    return EfficientNetLite(name, 1280, half, ("_fc.",), families.efficientnet_lite0, NO_LOGITS)


BACKBONES = {name: Vit(name) if name in VITS else _convolutional(name) for name in ENCODERS}


@lru_cache(maxsize=8)
def get_backbone(name: str) -> Backbone:
    """Returns the backbone of that name (a tower: its ``identity``). Raises RequestError if there is none."""
    if name.startswith(TIMM):
        from captionbeam.capmodel.encoders.backbones.timm_models import Timm

        return Timm(name)
    if name.startswith(HUGGING_FACE):
        from captionbeam.capmodel.encoders.backbones.towers import Tower

        return Tower.of(name)
    if name not in BACKBONES:
        raise RequestError(f"no encoder {name!r}; expected one of {encoder_choices()}")
    return BACKBONES[name]


def open_backbone(name: str) -> Backbone:
    """Returns the backbone that a user names, on the launcher: by its name, or ``hf:PATH``. Raises RequestError."""
    if name.startswith(HUGGING_FACE):
        from captionbeam.capmodel.encoders.backbones.towers import OpenedTower

        return OpenedTower(name)
    return get_backbone(name)


@lru_cache(maxsize=64)
def shape_of(name: str, size: int, output: str, layers: tuple[str, ...] = ()) -> tuple[int, ...]:
    """Returns the shape of one row, ``(H, W, C)`` or ``(C,)``; with ``layers`` by a run on the meta device.

    Raises RequestError for a size, output or layers that the network does not support.
    """
    backbone = get_backbone(name)
    shape = backbone.shape(size, output)
    if not layers:
        return shape
    with torch.device("meta"), torch.inference_mode():
        grids = backbone.cut(backbone.build(size, output), layers)
        try:
            channels, height, width = grids(torch.empty(1, 3, size, size)).shape[1:]
            larger = grids(torch.empty(1, 3, 2 * size, 2 * size)).shape
        except (ValueError, RuntimeError, IndexError):
            larger = None
    # The number of channels must not depend on the image size.
    if larger is None or larger[1] != channels:
        wanted = "ones that put out a grid [C, H, W]"
        raise RequestError(f"layers of {name} are {', '.join(layers)}; expected {wanted}")
    return (height, width, channels) if output == "grid" else (channels,)


@one_thread()
def load_network(
    name: str,
    size: int,
    output: str,
    state: State,
    pool_padding: bool,
    dtype: torch.dtype,
    device: torch.device,
    layers: Sequence[str] = (),
) -> nn.Module:
    """Returns the network with ``state`` for inference: batch norms folded, channels last, cut after ``layers``.

    Raises RequestError if the keys or shapes of ``state`` differ from the network's.
    """
    backbone = get_backbone(name)
    network: Any = backbone.build(size, output)
    load_into(getattr(network, "model", network), state, backbone.name)
    network.eval().requires_grad_(False)
    if not pool_padding:
        network.count_pool_padding(pool_padding)
    if name in BACKBONES:
        fold_batch_norm(network, layers)
    if layers:
        network = backbone.cut(network, layers)
    network.to(device=device, dtype=dtype)
    return network.to(memory_format=torch.channels_last)
