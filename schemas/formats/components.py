"""Components that reduce features: one safetensors file, written by the job ``svd``.

components  float32 [K, C]: orthonormal rows, the one that explains most first; each number divided by its channel's
            size where they were fitted to scaled channels
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

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import fingerprint, sha256_bytes
from captionbeam.schemas.storage import files

FORMAT, VERSION, ABOUT = "captionbeam components", 1, "captionbeam"
KEYS = {"fingerprint": str, "spec": dict, "request": dict}  # of the header, which others read
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
        about = _about(data)
        if about["version"] > VERSION:
            raise RequestError(
                f"{url!r} has version {about['version']}; this captionbeam reads up to {VERSION}: upgrade it"
            )
        vectors, mean = _tensors(data, about)
    except RequestError:
        raise
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError) as err:
        raise RequestError(
            f"{url!r} holds no components ({_reason(err)}); expected a file that captionbeam svd wrote"
        ) from err
    return Components(vectors, mean, about, sha256_bytes(data))


def _reason(err: Exception) -> str:
    if isinstance(err, FileNotFoundError):
        return "it is not there"
    return f"it has no {err}" if isinstance(err, KeyError) else str(err) or type(err).__name__


def _about(data: bytes) -> dict[str, Any]:
    """What the header says of the components. Raises KeyError, TypeError, ValueError where it is of something else."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about: dict[str, Any] = json.loads(header["__metadata__"][ABOUT])
    if about["format"] != FORMAT:
        raise ValueError(f"format {about['format']!r}")
    if type(about["version"]) is not int:
        raise ValueError(f"version {about['version']!r}")
    return about


def _tensors(data: bytes, about: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Components and mean, of the shapes, dtype and keys that they are written with. Raises KeyError, ValueError."""
    odd = next((name for name, kind in KEYS.items() if not isinstance(about[name], kind)), None)
    if odd is not None:
        raise ValueError(f"{odd} {about[odd]!r}")
    tensors = load(data)
    vectors, mean = tensors["components"], tensors.get("mean")
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"components of shape {list(vectors.shape)}")
    if mean is not None and mean.shape != vectors.shape[1:]:
        raise ValueError(f"a mean of shape {list(mean.shape)} for components {list(vectors.shape)}")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise ValueError(f"{name} in {tensor.dtype} or not finite, where finite float32 is written")
    return vectors, mean


def encoder_part(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Of a features' spec what the encoder decides: components that fit one of its stores fit them all."""
    return {name: value for name, value in spec.items() if name not in STORED}


def encoder_fingerprint(spec: Mapping[str, Any]) -> str:
    """The fingerprint of the features as the encoder makes them, neither reduced nor rounded."""
    return fingerprint(encoder_part(spec))
