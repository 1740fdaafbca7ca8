"""Components that reduce features: one safetensors file, written by the job ``svd``.

components  float32 [K, C]: orthonormal rows, the one that explains most first
mean        float32 [C]: taken off first; only where they were fitted to centred features (PCA)

Its header's ``captionbeam`` says, as JSON, what they were fitted on and what each of them explains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from schemas import files
from schemas.errors import RequestError
from schemas.fingerprint import fingerprint, sha256_bytes

FORMAT, VERSION, ABOUT = "captionbeam components", 1, "captionbeam"
STORED = ("reduction", "dtype")  # what a features' spec says beyond the encoder


@dataclass(frozen=True, eq=False)
class Components:
    """``vectors`` float32 [K, C], ``mean`` float32 [C] or None; ``sha256`` is the whole file's.

    ``about``: ``spec`` and ``fingerprint`` of the features, ``explained_variance_ratio`` of all C components and its
    running sum ``cumulative``, ``explained_variance`` of the K, images, cells, and what they were fitted with.
    """

    vectors: np.ndarray
    mean: np.ndarray | None
    about: Mapping[str, Any]
    sha256: str

    @property
    def method(self) -> str:
        """``svd``, or ``pca`` where a mean is taken off."""
        return "svd" if self.mean is None else "pca"


def components_bytes(vectors: np.ndarray, mean: np.ndarray | None, about: Mapping[str, Any]) -> bytes:
    """The file: float32 ``[K, C]`` and ``[C]`` with what there is to say ``about`` them."""
    tensors = {"components": np.ascontiguousarray(vectors, np.float32)}
    if mean is not None:
        tensors["mean"] = np.ascontiguousarray(mean, np.float32)
    header = {"format": FORMAT, "version": VERSION, **about}
    return save(tensors, {ABOUT: json.dumps(header, sort_keys=True)})


def read_components(url: str) -> Components:
    """The components in the file at ``url``. Raises RequestError where it is none, or a newer version wrote it."""
    try:
        data = files.read_bytes(url)
        tensors, about = load(data), _about(data)
    except (OSError, SafetensorError, ValueError, KeyError) as err:
        reason = "it is not there" if isinstance(err, FileNotFoundError) else str(err) or type(err).__name__
        raise RequestError(
            f"{url!r} holds no components ({reason}); expected a file that captionbeam svd wrote"
        ) from err
    if about["version"] > VERSION:
        raise RequestError(
            f"{url!r} has version {about['version']}; this captionbeam reads up to {VERSION}: upgrade it"
        )
    return Components(tensors["components"], tensors.get("mean"), about, sha256_bytes(data))


def _about(data: bytes) -> dict[str, Any]:
    """What the header says of the components. Raises KeyError, ValueError where it is another kind of file."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about: dict[str, Any] = json.loads(header["__metadata__"][ABOUT])
    if about["format"] != FORMAT:
        raise ValueError(f"format {about['format']!r}")
    return about


def encoder_part(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Of a features' spec what the encoder decides: components that fit one of its stores fit them all."""
    return {name: value for name, value in spec.items() if name not in STORED}


def encoder_fingerprint(spec: Mapping[str, Any]) -> str:
    """The fingerprint of the features as the encoder makes them, neither reduced nor rounded."""
    return fingerprint(encoder_part(spec))
