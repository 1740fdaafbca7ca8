"""Preprocessing: from decoded pixels of any size to an encoder's input tensor.

Shapes: H, W the image's height and width; S the encoder's image size; B a batch.

``prepare`` decodes a file and calls ``pixels``, which crops and resizes to uint8 ``[3, S, S]``, on the decode threads,
which keeps the result small; ``scale`` converts a whole batch to floats on the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import interpolate

from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.capmodel.specs import PREPROCESS_VERSION, PreprocessSpec
from captionbeam.schemas.errors import RequestError

CROPS = ("resize-crop", "resize-floor-crop", "square-crop", "squash-crop")
INTERPOLATIONS = ("bilinear", "bicubic")
CHANNELS = ("rgb", "bgr")
DECODES = ("scaled", "exact")
COLOURS = ("srgb", "stored")

Colours = tuple[float, float, float]

# Mean and standard deviation of red, green, blue on the 0..255 scale. torch, tf and caffe are named as in
# keras.applications.imagenet_utils.preprocess_input; lite is EfficientNet-Lite's (x - 127) / 128; clip is that of
# OpenAI's CLIP. Others are written as R,G,B/R,G,B: mean and standard deviation of colours from 0 to 1.
SCALINGS: Mapping[str, tuple[Colours, Colours]] = {
    "torch": ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
    "tf": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "caffe": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
    "lite": ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
    "clip": (
        (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255),
        (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255),
    ),
}


def scaling_of(mean: Sequence[float], std: Sequence[float]) -> str:
    """Returns the name of a scaling, or R,G,B/R,G,B, from mean and standard deviation of colours from 0 to 1."""
    values = tuple(tuple(255 * value for value in colours) for colours in (mean, std))
    named = [name for name, known in SCALINGS.items() if np.allclose(known, values, rtol=1e-6)]
    return next(iter(named), "/".join(",".join(f"{value:g}" for value in colours) for colours in (mean, std)))


def scaling_values(scaling: str) -> tuple[Colours, Colours]:
    """Returns mean and standard deviation on the 0..255 scale. Raises RequestError for an unknown scaling."""
    if scaling in SCALINGS:
        return SCALINGS[scaling]
    try:
        mean, std = ([float(value) * 255 for value in part.split(",")] for part in scaling.split("/"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or not np.isfinite([mean, std]).all():
            raise ValueError(scaling)
    except ValueError:
        known = ", ".join(SCALINGS)
        raise RequestError(
            f"unknown scaling {scaling!r}; expected one of {known}, "
            "or mean and standard deviation of colours from 0 to 1, as R,G,B/R,G,B"
        ) from None
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


@dataclass(frozen=True)
class Preprocess(PreprocessSpec):
    """Turns pixels into an encoder's input, as its fields say. Raises RequestError for an invalid value."""

    def __post_init__(self) -> None:
        _one_of("crop", self.crop, CROPS)
        _one_of("interpolation", self.interpolation, INTERPOLATIONS)
        _one_of("channel order", self.channels, CHANNELS)
        _one_of("way to decode", self.decode, DECODES)
        _one_of("colour", self.colour, COLOURS)
        scaling_values(self.scaling)
        if not 1 <= self.size <= self.resize:
            raise RequestError(
                f"image size {self.size} with resize {self.resize}; expected 1 <= image size <= resize"
            )
        if self.version != PREPROCESS_VERSION:
            raise RequestError(
                f"preprocessing version {self.version}; this captionbeam has version {PREPROCESS_VERSION}: "
                "use the one that the features were made with, or encode again"
            )

    def override(
        self,
        scaling: str | None = None,
        image_size: int | None = None,
        crop: str | None = None,
        interpolation: str | None = None,
        channels: str | None = None,
        resize: int | None = None,
        decode: str | None = None,
        colour: str | None = None,
    ) -> Preprocess:
        """Returns a copy with the user's choices; None keeps a value.

        Without ``resize``, another image size keeps the visible share of the image, and another kind of crop uses the
        whole shorter side. ``caffe`` implies BGR order.
        """
        size = self.size if image_size is None else image_size
        kept = size if crop not in (None, self.crop) else round(size * self.resize / self.size)
        if channels is None and scaling is not None and scaling != self.scaling:
            channels = "bgr" if scaling == "caffe" else "rgb"
        return replace(
            self,
            size=size,
            resize=resize or kept,
            crop=crop or self.crop,
            interpolation=interpolation or self.interpolation,
            channels=channels or self.channels,
            scaling=scaling or self.scaling,
            decode=decode or self.decode,
            colour=colour or self.colour,
        )

    def prepare(self, data: bytes) -> torch.Tensor:
        """Returns a file's bytes as uint8 ``[3, S, S]``, as ``pixels`` does. Raises ImageError."""
        side = 2 * self.resize if self.decode == "scaled" else None
        return self.pixels(decode_image(data, side=side, srgb=self.colour == "srgb"))

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        """Converts uint8 ``[H, W, 3]`` RGB to float32 ``[3, S, S]``."""
        return self.scale(self.pixels(image)[None])[0]

    def pixels(self, image: np.ndarray) -> torch.Tensor:
        """Converts uint8 ``[H, W, 3]`` RGB to uint8 ``[3, S, S]``, in the order ``channels``, channels last in memory.

        Resizes with antialiasing by torch's integer kernel: the same on every CPU, the same as torchvision's on
        tensors, and within one level of Pillow's. It runs on one thread and releases the GIL.
        """
        picture = torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)
        rows = self._fitted(picture).permute(1, 2, 0).numpy()  # [S, S, 3]
        if self.channels == "bgr":
            rows = rows[..., ::-1]
        return torch.from_numpy(rows.copy()).permute(2, 0, 1)  # numpy copies on this thread, torch on all

    def scale(self, batch: torch.Tensor) -> torch.Tensor:
        """Converts uint8 ``[B, 3, S, S]`` of ``pixels`` to float32, on the batch's device, channels last in memory.

        ``(x - mean) / std``, computed as ``x * (1 / std) - mean / std``.
        """
        factor, offset = self._table(batch.device, batch.shape[-1])
        rows = batch.permute(0, 2, 3, 1).flatten(2).float()  # [B, S, S * 3]: long rows for vectorisation
        return torch.addcmul(offset, rows, factor, out=rows).unflatten(2, (-1, 3)).permute(0, 3, 1, 2)

    def _table(self, device: torch.device, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns factor and offset of each value of a row of pixels: float32 ``[width * 3]`` each."""
        mean, std = (np.array(values) for values in scaling_values(self.scaling))
        if self.channels == "bgr":
            mean, std = mean[::-1], std[::-1]
        pair = np.tile(np.stack([1 / std, -mean / std]), width).astype(np.float32)
        factor, offset = torch.from_numpy(pair).to(device)
        return factor, offset

    def _fitted(self, picture: torch.Tensor) -> torch.Tensor:
        """Crops and resizes uint8 ``[3, H, W]`` to ``[3, S, S]``."""
        if self.crop == "square-crop":
            return self._crop_then_resize(picture)
        height, width = picture.shape[1:]
        if self.crop == "squash-crop":
            return self._middle(self._resize(picture, (self.resize, self.resize)))
        longer = int(self.resize * max(height, width) / min(height, width))
        return self._middle(
            self._resize(picture, (longer, self.resize) if height > width else (self.resize, longer))
        )

    def _middle(self, resized: torch.Tensor) -> torch.Tensor:
        """torchvision's ``CenterCrop(size)``, with its rounding, or transformers' rounding down."""
        corner = math.floor if self.crop == "resize-floor-crop" else round
        top, left = (corner((side - self.size) / 2.0) for side in resized.shape[1:])
        return resized[:, top : top + self.size, left : left + self.size]

    def _crop_then_resize(self, picture: torch.Tensor) -> torch.Tensor:
        """The centre crop of EfficientNet's ``_decode_and_center_crop``, with its rounding."""
        height, width = picture.shape[1:]
        side = max(1, min(height, width) * self.size // self.resize)
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        return self._resize(picture[:, top : top + side, left : left + side], (self.size, self.size))

    def _resize(self, picture: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if tuple(picture.shape[1:]) == size:
            return picture
        return interpolate(picture[None], size, mode=self.interpolation, antialias=True)[0]


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RequestError(f"unknown {what} {value!r}; expected one of {', '.join(known)}")
