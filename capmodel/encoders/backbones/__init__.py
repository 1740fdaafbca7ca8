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
    INCEPTION_V3,
    RESNETS,
    TIMM,
    VITS,
    encoder_choices,
)
from captionbeam.capmodel.encoders.weights import State, load_into
from captionbeam.schemas.errors import RequestError

__all__ = ["BACKBONES", "Backbone", "get_backbone", "load_network", "shape_of"]

NO_LOGITS = ("grid", "pooled")  # for networks that are built without their classifier


def _convolutional(name: str) -> Backbone:
    """Returns the backbone of that name, which is not a ViT."""
    if name in RESNETS:
        return Convolutional(name, ("fc.",), families.resnet)
    if name in DENSENETS:
        return DenseNet(name, ("classifier.",), families.densenet)
    if name in EFFICIENTNETS:
        return Convolutional(name, ("classifier.",), families.efficientnet)
    if name in CONVNEXTS:
        return Convolutional(name, ("classifier.",), families.convnext)
    if name == GOOGLENET:  # with auxiliary classifiers, used in training only
        return Convolutional(name, ("fc.", "aux1.", "aux2."), families.googlenet)
    if name == INCEPTION_V3:
        return Convolutional(name, ("fc.", "AuxLogits."), families.inception_v3, NO_LOGITS)
    return EfficientNetLite(name, ("_fc.",), families.efficientnet_lite0, NO_LOGITS)


BACKBONES = {name: Vit(name) if name in VITS else _convolutional(name) for name in ENCODERS}


@lru_cache(maxsize=8)
def get_backbone(name: str) -> Backbone:
    """Returns the backbone of that name. Raises RequestError if there is none."""
    if name.startswith(TIMM):
        from captionbeam.capmodel.encoders.backbones.timm_models import Timm

        return Timm(name)
    if name not in BACKBONES:
        raise RequestError(f"no encoder {name!r}; expected one of {encoder_choices()}")
    return BACKBONES[name]


@lru_cache(maxsize=64)
def shape_of(name: str, size: int, output: str, layers: tuple[str, ...] = ()) -> tuple[int, ...]:
    """Returns the shape of one row, ``(H, W, C)`` or ``(C,)``, by a run on the meta device.

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
    network: Any = get_backbone(name).build(size, output)
    load_into(getattr(network, "model", network), state, name)
    network.eval().requires_grad_(False)
    if not pool_padding:
        network.count_pool_padding(pool_padding)
    if name in BACKBONES:
        fold_batch_norm(network, layers)
    if layers:
        network = get_backbone(name).cut(network, layers)
    network.to(device=device, dtype=dtype)
    return network.to(memory_format=torch.channels_last)
