"""Feature reduction: fewer channels by components, and int8 storage. For an encoder's output or stored features.

Shapes: n images; C channels of the encoder's features, K components; ``...`` is H, W for a grid, nothing for a vector.

Reduction takes float16 features, as a store holds them, one image at a time. Encoding with reduction in one pass
therefore gives the same rows as reducing stored full features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captionbeam.capmodel.encoders.feature_plan import columns_of
from captionbeam.capmodel.runtime.device import device_errors, exact_device
from captionbeam.capmodel.runtime.streams import Streams
from captionbeam.schemas.errors import FingerprintError, ImageError, RequestError
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.formats.components import Components, read_components
from captionbeam.schemas.formats.int8 import rounded

if TYPE_CHECKING:
    from captionbeam.capmodel.encoders.encoder import Encoder

ROWS = {"cpu": 32, "cuda": 512}  # images per batch of stored features


class Reducer:
    """Subtracts the components' mean (PCA only) and projects onto the first ``dim`` components, in float32."""

    def __init__(self, components: Components, dim: int, device: torch.device) -> None:
        vectors = torch.from_numpy(components.vectors[:dim].copy())
        self._matrix, self.device = vectors.T.contiguous().to(device), device
        mean = components.mean
        self._offset = None if mean is None else (vectors @ torch.from_numpy(mean.copy())).to(device)

    @classmethod
    def load(cls, reduction: Mapping[str, Any], url: str, device: torch.device) -> Reducer:
        """Loads the reducer of a spec's ``reduction``. Raises FingerprintError for another file, RequestError."""
        components = read_components(url)
        if components.sha256 != reduction["sha256"]:
            raise FingerprintError(
                f"the components {url!r} have SHA-256 {components.sha256}; expected {reduction['sha256']}"
            )
        return cls(components, reduction["dim"], device)

    @torch.inference_mode()
    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Reduces float16 ``[n, ..., C]`` to float16 ``[n, ..., K]``. Raises OutOfMemory, SystemicError."""
        with device_errors():
            return torch.stack([self._one(torch.from_numpy(row)) for row in features]).cpu().numpy()

    def _one(self, row: Tensor) -> Tensor:
        """Reduces one image; BLAS may round differently for another matrix size."""
        projected = row.to(self.device).float().reshape(-1, row.shape[-1]) @ self._matrix
        if self._offset is not None:
            projected -= self._offset
        return projected.reshape(*row.shape[:-1], -1).half()


class FeatureEncoder:
    """A processor that maps images to features as ``plan`` stores them: an encoder with optional reduction.

    ``as_stored``: for int8, return what a reader of the store gets; otherwise the float16 values to be stored as int8.
    """

    def __init__(
        self, encoder: Encoder, spec: Mapping[str, Any], reducer: Reducer | None, as_stored: bool = False
    ):
        self._encoder, self._reducer = encoder, reducer
        self._rounding = as_stored and spec.get("dtype") == "int8"
        self.column, shape = encoder.spec.output, encoder.spec.shape
        self.shape = (*shape[:-1], spec["reduction"]["dim"]) if reducer else shape
        self.fingerprint, self.schema = fingerprint(spec), columns_of(spec, self.column, self.shape)
        self.streams = encoder.streams

    @classmethod
    def load(
        cls,
        spec: Mapping[str, Any],
        weights_url: str,
        components_url: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        as_stored: bool = False,
    ) -> FeatureEncoder:
        """Loads the encoder of ``spec``, with weights and components from the store's ``models/``.

        Raises FingerprintError for other weights or components, RequestError.
        """
        from captionbeam.capmodel.encoders.encoder import Encoder, EncoderSpec

        encoder = Encoder.load(EncoderSpec.from_dict(spec), weights_url, batch_size, device)
        return cls(encoder, spec, load_reducer(spec, components_url, encoder.device), as_stored)

    @property
    def batch_size(self) -> int:
        """Images per forward pass."""
        return self._encoder.batch_size

    @batch_size.setter
    def batch_size(self, images: int) -> None:
        self._encoder.batch_size = images

    def prepare(self, item: bytes) -> Tensor:
        """Returns a file's bytes as the encoder's input. Raises ImageError."""
        return self._encoder.prepare(item)

    def run(self, batch: Sequence[Tensor], image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns ``{column: float16 [n, *shape]}``. Raises ImageError, OutOfMemory, SystemicError."""
        features = self._encoder.run(batch, image_ids)[self.column]
        if self._reducer is not None:
            features = checked(self._encoder.in_stream(partial(self._reducer, features)), image_ids)
        return {self.column: rounded(features) if self._rounding else features}


class FeatureReducer:
    """A processor that maps rows of a features snapshot to reduced features, or to features to be stored as int8."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        column: str,
        shape: Sequence[int],
        reducer: Reducer | None,
        batch_size: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        """``shape``: of the input rows."""
        self._reducer, self._column, self._shape = reducer, column, tuple(shape)
        target = device or torch.device("cpu")
        self.batch_size = batch_size or ROWS[target.type]
        kept = (*shape[:-1], spec["reduction"]["dim"]) if reducer else shape
        self.fingerprint, self.schema = fingerprint(spec), columns_of(spec, column, kept)
        self._streams = Streams(self.batch_size, target)
        self.streams = self._streams.count

    @classmethod
    def load(
        cls,
        spec: Mapping[str, Any],
        column: str,
        shape: Sequence[int],
        components_url: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
    ) -> FeatureReducer:
        """Loads the components. Raises FingerprintError for other components, RequestError."""
        target = exact_device(device)
        return cls(spec, column, shape, load_reducer(spec, components_url, target), batch_size, target)

    def prepare(self, item: np.ndarray) -> np.ndarray:
        """Returns the float16 features after a shape check. Raises ImageError."""
        if item.shape != self._shape:
            raise ImageError("model", "model", f"features have shape {item.shape}; expected {self._shape}")
        return item

    def run(self, batch: Sequence[np.ndarray], image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns ``{column: float16 [n, *shape]}``. Raises ImageError, OutOfMemory, SystemicError."""
        features = np.stack(batch)
        if self._reducer is not None:
            features = self._streams.run(partial(self._reducer, features))
        return {self._column: checked(features, image_ids)}


def load_reducer(spec: Mapping[str, Any], components_url: str | None, device: torch.device) -> Reducer | None:
    """Returns the reducer of ``spec``, or None. Raises FingerprintError, RequestError."""
    if "reduction" not in spec:
        return None
    if components_url is None:
        raise RequestError(
            "these features are reduced, and their components are not there; expected the file"
        )
    return Reducer.load(spec["reduction"], components_url, device)


def checked(features: np.ndarray, image_ids: Sequence[str]) -> np.ndarray:
    """Returns ``features`` float16 ``[n, ...]``. Raises ImageError if a row is not finite."""
    finite = np.isfinite(features.reshape(len(features), -1).sum(1, dtype=np.float32))
    if not finite.all():
        odd = image_ids[int(finite.argmin())]
        raise ImageError("model", "model", f"the features of {odd!r} are not finite in float16")
    return features
