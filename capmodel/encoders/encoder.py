"""Encoders: ``EncoderSpec`` is settled on the launcher, ``Encoder`` runs on workers.

Shapes: n images; B the batch; S the image size; H, W, C the grid's height, width and channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from captionbeam.capmodel.encoders.backbones import load_network, open_backbone, shape_of
from captionbeam.capmodel.encoders.names import INCEPTION_V3
from captionbeam.capmodel.encoders.preprocess import Preprocess
from captionbeam.capmodel.encoders.weights import (
    SHA256_MARK,
    State,
    read_weights,
    store_weights,
    weights_bytes,
)
from captionbeam.capmodel.runtime.device import (
    DTYPES,
    device_errors,
    exact_device,
    resolve_precision,
)
from captionbeam.capmodel.runtime.streams import Streams
from captionbeam.capmodel.specs import NetworkSpec
from captionbeam.schemas.errors import ImageError, RequestError
from captionbeam.schemas.fingerprint import fingerprint, from_spec, sha256_bytes, spec_of
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.components import encoder_part

__all__ = ["Encoder", "EncoderSpec", "resolve_encoder", "store_weights"]

T = TypeVar("T")
BATCH = {"cpu": 16, "cuda": 128}  # default batch size; a CPU computes several batches at a time


@dataclass(frozen=True)
class EncoderSpec(NetworkSpec):
    """Everything that determines a row of features besides the image's bytes; its hash is the features' fingerprint."""

    preprocess: Preprocess

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> EncoderSpec:
        """Returns the spec of a features record, whether or not these are reduced. Raises RequestError."""
        return from_spec(EncoderSpec, encoder_part(record))

    def to_dict(self) -> dict[str, Any]:
        """Returns the record, which ``from_dict`` reads."""
        return spec_of(self)

    @property
    def fingerprint(self) -> str:
        """The features' fingerprint: 32 hexadecimal digits."""
        return fingerprint(self.to_dict())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row: ``(H, W, C)`` or ``(C,)``."""
        return shape_of(self.network, self.preprocess.size, self.output, self.layers)

    @property
    def network(self) -> str:
        """The name by which ``get_backbone`` finds the network."""
        return self.name + self.config

    @property
    def field(self) -> pa.Field:
        """The output column."""
        return arrow.grid_field(self.output, self.shape)


def resolve_encoder(
    name: str,
    weights: str | None = None,
    preprocess: str | None = None,
    output: str = "grid",
    precision: str = "auto",
    image_size: int | None = None,
    crop: str | None = None,
    pool_padding: bool = True,
    device: str = "auto",
    resize: int | None = None,
    interpolation: str | None = None,
    channels: str | None = None,
    layers: Sequence[str] = (),
    decode: str | None = None,
    colour: str | None = None,
) -> tuple[EncoderSpec, State]:
    """Returns the complete spec and its weights, after loading them into the network. Runs on the launcher.

    ``weights``: a published name, a path or a URL; None for the encoder's default. ``preprocess``: a scaling. It and
    ``image_size``, ``crop``, ``resize``, ``interpolation`` and ``channels`` change the weights' preset, as in
    ``Preprocess.override``; ``decode`` and ``colour`` likewise (default: scaled and srgb; for towers of transformers
    exact and stored, as transformers does). ``device``: decides the precision if ``precision`` is auto. Raises
    RequestError for an invalid combination.
    """
    backbone = open_backbone(name)
    name, network = backbone.name, backbone.name + backbone.config
    backbone.check_output(output)
    _check_layers(name, output, layers)
    if not pool_padding and name != INCEPTION_V3:
        raise RequestError(f"{name} has no average pools with padding; only inception_v3 can leave it out")
    wanted = weights or backbone.default
    preset = backbone.presets.get(wanted, backbone.presets[backbone.default])
    prepared = preset.override(
        preprocess,
        image_size,
        crop,
        interpolation,
        channels,
        resize,
        decode or backbone.decode,
        colour or backbone.colour,
    )
    shape_of(network, prepared.size, output, tuple(layers))
    precision = resolve_precision(precision, device)
    state = backbone.fit(backbone.weights(wanted), prepared.size, output)
    load_network(
        network, prepared.size, output, state, pool_padding, torch.float32, torch.device("cpu"), layers
    )
    sha256 = sha256_bytes(weights_bytes(state))
    return EncoderSpec(
        name, output, sha256, prepared, precision, pool_padding, tuple(layers), backbone.config
    ), state


def _check_layers(name: str, output: str, layers: Sequence[str]) -> None:
    if layers and output == "logits":
        raise RequestError(f"layers of {name} have no logits; expected the grid, or pooled")
    if not all(layers):
        raise RequestError(f"layers is {','.join(layers)!r}, where a name is empty; expected NAME,NAME")
    if twice := [layer for layer in layers if layers.count(layer) > 1]:
        raise RequestError(f"the layer {twice[0]!r} is named twice; expected it once")


class Encoder:
    """A processor that maps images to float16 grids ``[n, H, W, C]`` or vectors ``[n, C]``.

    Batches are padded to ``batch_size``, so on one device a row does not depend on the rest of its batch. Threads may
    share an encoder; it computes ``streams`` batches at a time.
    """

    def __init__(self, spec: EncoderSpec, network: nn.Module, batch_size: int, device: torch.device) -> None:
        self.spec, self.batch_size, self.device = spec, batch_size, device
        self.fingerprint, self.schema = spec.fingerprint, pa.schema([spec.field])
        self._network, self._streams = network, Streams(batch_size, device)
        self.streams = self._streams.count

    @classmethod
    def load(
        cls, spec: EncoderSpec, weights_url: str, batch_size: int | None = None, device: str = "auto"
    ) -> Encoder:
        """Loads the encoder of ``spec``, with the weights that ``store_weights`` wrote to ``weights_url``.

        Raises FingerprintError for other weights, RequestError for a device that does not exist.
        """
        target = exact_device(device)
        state = read_weights(f"{weights_url}{SHA256_MARK}{spec.weights_sha256}")
        size, dtype = spec.preprocess.size, DTYPES[spec.precision]
        network = load_network(
            spec.network, size, spec.output, state, spec.pool_padding, dtype, target, spec.layers
        )
        return cls(spec, network, batch_size or BATCH[target.type], target)

    def prepare(self, item: bytes) -> Tensor:
        """Returns a file's bytes as uint8 ``[3, S, S]``. Raises ImageError."""
        return self.spec.preprocess.prepare(item)

    def run(self, batch: Sequence[Tensor], image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns ``{"grid": float16 [n, H, W, C]}``, or ``[n, C]`` for another output, of at most B prepared images.

        Raises ImageError if a row is not finite in float16, OutOfMemory, SystemicError.
        """
        pixels = self._padded(batch)
        rows, finite = self.in_stream(lambda: self._computed(pixels, len(batch)))
        bad = [name for name, good in zip(image_ids, finite, strict=True) if not good]
        if bad:
            raise ImageError(
                "model", "model", f"the encoder's output for {bad[0]!r} is not finite in float16"
            )
        return {self.spec.output: rows}

    def in_stream(self, work: Callable[[], T]) -> T:
        """Runs ``work`` as batches are computed: on a thread of their ``Streams``. Returns its result."""
        return self._streams.run(work)

    def _padded(self, batch: Sequence[Tensor]) -> Tensor:
        """Returns uint8 ``[B, 3, S, S]``, channels last in memory, padded with black images."""
        size = self.spec.preprocess.size
        rows = np.zeros((self.batch_size, size, size, 3), np.uint8)
        np.stack([image.permute(1, 2, 0).numpy() for image in batch], out=rows[: len(batch)])
        return torch.from_numpy(rows).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def _computed(self, pixels: Tensor, count: int) -> tuple[np.ndarray, list[bool]]:
        """Returns the features of the first ``count`` rows, float16 ``[count, *shape]``, and which are finite."""
        with device_errors():
            scaled = self.spec.preprocess.scale(pixels.to(self.device))
            features = self._network(scaled.to(DTYPES[self.spec.precision]))[:count]
            if features.ndim == 4:
                features = features.permute(0, 2, 3, 1)
                if self.spec.output != "grid":
                    features = features.mean((1, 2), dtype=torch.float32)
            features = features.to(torch.float16).contiguous()
            finite = features.flatten(1).sum(1, dtype=torch.float32).isfinite().tolist()
            return features.cpu().numpy(), finite
