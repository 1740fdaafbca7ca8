"""torchvision's Vision Transformers (Dosovitskiy et al. 2021) as backbones.

The grid ``[n, C, H, W]`` has the patch tokens after the last layer norm, without the class token. Pooled features are
the class token ``[n, C]`` after that norm, the classifier's input.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from captionbeam.capmodel.encoders.backbones.base import Backbone
from captionbeam.capmodel.encoders.names import OUTPUTS
from captionbeam.capmodel.encoders.weights import State
from captionbeam.schemas.errors import RequestError

LABELS = 1000  # ImageNet classes
WIDTHS = {"b": 768, "l": 1024, "h": 1280}
POSITIONS = "encoder.pos_embedding"  # [1, 1 + H * W, C]


class Vit(Backbone):
    """One of ``VITS``; for example ``vit_b_16`` has patches of 16 x 16 pixels."""

    outputs = OUTPUTS

    def __init__(self, name: str) -> None:
        self.name = name
        self.patch = int(name.rpartition("_")[2])
        self.channels = WIDTHS[name.split("_")[1]]

    def shape(self, size: int, output: str) -> tuple[int, ...]:
        if size % self.patch:
            raise RequestError(
                f"image size {size} is no whole number of {self.name}'s patches; "
                f"expected a multiple of {self.patch}"
            )
        side = size // self.patch
        return {"grid": (side, side, self.channels), "pooled": (self.channels,), "logits": (LABELS,)}[output]

    def build(self, size: int, output: str) -> nn.Module:
        from torchvision.models import get_model

        with torch.device("meta"):
            return Tokens(get_model(self.name, weights=None, image_size=size), output)

    def fit(self, state: State, size: int, output: str) -> State:
        """Interpolates position embeddings of weights for another image size, with torchvision's method."""
        from torchvision.models.vision_transformer import interpolate_embeddings

        kept = OrderedDict(
            (key, value) for key, value in state.items() if output == "logits" or not key.startswith("heads.")
        )
        if POSITIONS not in kept:
            return kept  # loading raises the error
        try:
            return interpolate_embeddings(size, self.patch, kept)
        except ValueError as err:
            raise RequestError(f"weights {POSITIONS!r} do not suit {self.name}: {err}") from err


class Tokens(nn.Module):
    """A VisionTransformer that returns ``output``; its weights have torchvision's keys."""

    def __init__(self, whole: Any, output: str) -> None:
        super().__init__()
        self.output = output
        self.conv_proj, self.class_token, self.encoder = whole.conv_proj, whole.class_token, whole.encoder
        if output == "logits":
            self.heads = whole.heads

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv_proj(x)
        class_tokens = self.class_token.expand(len(patches), -1, -1)
        tokens = torch.cat([class_tokens, patches.flatten(2).transpose(1, 2)], 1)
        tokens = self.encoder(tokens)
        if self.output == "grid":
            return tokens[:, 1:].transpose(1, 2).unflatten(2, patches.shape[2:])
        return self.heads(tokens[:, 0]) if self.output == "logits" else tokens[:, 0]
