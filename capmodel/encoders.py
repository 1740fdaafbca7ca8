"""Encoders: what one is (``EncoderSpec``), settled on the launcher, and the processor that runs it on a worker."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from capmodel.backbones import BACKBONES, Backbone, exclude_pool_padding, fold_batch_norm
from capmodel.device import DTYPES, device_errors, pick_device, settle_precision
from capmodel.images import decode_image
from capmodel.preprocess import Preprocess
from capmodel.weights import State, load_strictly, read_weights, store_weights, weights_bytes
from schemas import arrow
from schemas.errors import FingerprintError, ImageError, RequestError
from schemas.fingerprint import fingerprint, sha256_bytes

__all__ = ["Encoder", "EncoderSpec", "resolve_encoder", "store_weights"]

BATCH = {"cpu": 32, "cuda": 256}


@dataclass(frozen=True)
class EncoderSpec:
    """All that decides a row of features besides the image's bytes; its hash is the features' fingerprint.

    name, output:   a key of BACKBONES; ``grid`` ``[H, W, C]`` or ``pooled`` ``[C]`` (the grid's mean).
    weights_sha256: of the weights as safetensors, the classifier left out.
    pool_padding:   whether InceptionV3's average pools count padding (torchvision) or not (TensorFlow).
    precision:      ``fp32`` or ``bf16``: what the network computes in. What is kept is float16.
    """

    name: str
    output: str
    weights_sha256: str
    preprocess: Preprocess
    precision: str = "fp32"
    pool_padding: bool = True
    dtype: str = "float16"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` reads them back."""
        return {**dataclasses.asdict(self), "preprocess": self.preprocess.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderSpec:
        """The spec that ``to_dict`` wrote. Raises RequestError for fields of a newer version."""
        try:
            return cls(**{**values, "preprocess": Preprocess(**values["preprocess"])})
        except (TypeError, KeyError) as err:
            raise RequestError(
                f"not an encoder of this version: {err}; expected {sorted(_fields(cls))}"
            ) from err

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits."""
        return fingerprint(self.to_dict())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row: ``(H, W, C)`` or ``(C,)``."""
        backbone = BACKBONES[self.name]
        side = backbone.cells(self.preprocess.size)
        return (side, side, backbone.channels) if self.output == "grid" else (backbone.channels,)

    @property
    def field(self) -> pa.Field:
        """The output column."""
        return arrow.grid_field(self.output, self.shape, self.dtype)


def _fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def resolve_encoder(
    name: str,
    weights: str | None = None,
    preprocess: str | None = None,
    pooled: bool = False,
    precision: str = "auto",
    image_size: int | None = None,
    crop: str | None = None,
    pool_padding: bool = True,
    device: str = "auto",
) -> tuple[EncoderSpec, State]:
    """On the launcher: the spec, everything settled, and the weights it is about, checked against the network.

    Raises RequestError, with one sentence, for whatever does not fit.
    """
    if name not in BACKBONES:
        raise RequestError(f"no encoder {name!r}; expected one of {', '.join(BACKBONES)}")
    if not pool_padding and name != "inception_v3":
        raise RequestError(
            f"{name} has no average pools with padding; expected inception_v3, or to leave it out"
        )
    backbone = BACKBONES[name]
    state = _state(backbone, weights)
    load_strictly(backbone.build(), state, name)
    spec = EncoderSpec(
        name=name,
        output="pooled" if pooled else "grid",
        weights_sha256=sha256_bytes(weights_bytes(state)),
        preprocess=backbone.preset(weights).override(preprocess, image_size, crop),
        precision=settle_precision(precision, pick_device(device)),
        pool_padding=pool_padding,
    )
    return spec, state


def _state(backbone: Backbone, weights: str | None) -> State:
    wanted = weights or backbone.weights
    named = wanted.replace("_", "").isalnum() and wanted.isupper()
    state = backbone.load(wanted) if named else read_weights(wanted)
    return {key: value for key, value in state.items() if not key.startswith(backbone.classifier)}


class Encoder:
    """A processor: images in, float16 grids ``[n, H, W, C]`` or vectors ``[n, C]`` out.

    Batches are padded to ``batch_size``, so that on one device a row does not depend on its batch-mates. Threads
    may share an encoder; the network runs under one lock.
    """

    takes = "image"

    def __init__(
        self, spec: EncoderSpec, network: torch.nn.Module, batch_size: int, device: torch.device
    ) -> None:
        self.spec, self.batch_size, self.device = spec, batch_size, device
        self.fingerprint, self.schema = spec.fingerprint, pa.schema([spec.field])
        self._network, self._lock = network, threading.Lock()
        self._dtype = DTYPES[spec.precision]

    @classmethod
    def load(
        cls, spec: EncoderSpec, weights_url: str, batch_size: int | None = None, device: str = "auto"
    ) -> Encoder:
        """The encoder of ``spec`` with the weights at ``weights_url``. Raises FingerprintError for other weights."""
        target = pick_device(device)
        state = read_weights(weights_url)
        found = sha256_bytes(weights_bytes(state))
        if found != spec.weights_sha256:
            raise FingerprintError(
                f"weights {weights_url} have sha256 {found}; expected {spec.weights_sha256}"
            )
        network = BACKBONES[spec.name].build()
        load_strictly(network, state, spec.name)
        network.eval().requires_grad_(False)
        if not spec.pool_padding:
            exclude_pool_padding(network)
        fold_batch_norm(network)
        network = network.to(target, DTYPES[spec.precision], memory_format=torch.channels_last)
        return cls(spec, network, batch_size or BATCH[target.type], target)

    def prepare(self, item: bytes) -> Tensor:
        """A file's bytes as uint8 ``[3, size, size]``. Raises ImageError."""
        return self.spec.preprocess.pixels(decode_image(item))

    def run(self, batch: Sequence[Tensor], image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """``{"grid": float16 [n, H, W, C]}`` or ``{"pooled": float16 [n, C]}``.

        Raises ImageError where a row is not finite, OutOfMemory, SystemicError.
        """
        features = self.features(batch).to(torch.float16).cpu().numpy()
        bad = [name for name, row in zip(image_ids, features, strict=True) if not np.isfinite(row).all()]
        if bad:
            raise ImageError(
                "model", "model", f"the encoder's output for {bad[0]!r} is not finite in float16"
            )
        return {self.spec.output: features}

    def features(self, batch: Sequence[Tensor]) -> Tensor:
        """Features of prepared images, on the device, in the network's precision, channels last."""
        pixels = torch.zeros((self.batch_size, *batch[0].shape), dtype=torch.uint8)
        torch.stack(list(batch), out=pixels[: len(batch)])
        with self._lock, device_errors(), torch.inference_mode():
            return self._forward(self._scaled(pixels))[: len(batch)]

    def bare_forward(self) -> Callable[[], Tensor]:
        """For benchmarks: one call is the network alone on one full batch of noise, nothing else."""
        size = self.spec.preprocess.size
        pixels = torch.randint(0, 256, (self.batch_size, 3, size, size), dtype=torch.uint8)
        scaled = self._scaled(pixels)

        def forward() -> Tensor:
            with torch.inference_mode():
                return self._network(scaled).sum().cpu()

        return forward

    def _scaled(self, pixels: Tensor) -> Tensor:
        scaled = self.spec.preprocess.scale(pixels.to(self.device))
        return scaled.to(self._dtype, memory_format=torch.channels_last)

    def _forward(self, scaled: Tensor) -> Tensor:
        grid = self._network(scaled).permute(0, 2, 3, 1)
        return grid.float().mean((1, 2)) if self.spec.output == "pooled" else grid
