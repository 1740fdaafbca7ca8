"""Components that reduce features: one safetensors file, written by the command ``svd``.

components  float32 [K, C]: orthonormal rows, by descending explained variance; if fitted to scaled channels, each
            value is divided by its channel's scale
mean        float32 [C]: subtracted before the projection; only for components of centred features (PCA)

The header's ``captionbeam`` entry is JSON: what the components were fitted on and what each of them explains.
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
from captionbeam.schemas.versions import check_version

FORMAT, VERSION, ABOUT = "captionbeam components", 1, "captionbeam"
KEYS = {"fingerprint": str, "spec": dict, "request": dict}  # header keys that other modules read
STORED = ("reduction", "dtype")  # keys of a features spec that the encoder does not decide


@dataclass(frozen=True, eq=False)
class Components:
    """``vectors`` float32 [K, C], ``mean`` float32 [C] or None; ``sha256`` is that of the whole file.

    ``about``: ``spec`` and ``fingerprint`` of the features, ``explained_variance_ratio`` of all C components and its
    running sum ``cumulative``, ``explained_variance`` of the K components, numbers of images and cells, and the
    options of the fit.
    """

    vectors: np.ndarray
    mean: np.ndarray | None
    about: Mapping[str, Any]
    sha256: str

    @property
    def method(self) -> str:
        """``pca`` if a mean is subtracted, else ``svd``."""
        return "svd" if self.mean is None else "pca"


def components_bytes(vectors: np.ndarray, mean: np.ndarray | None, about: Mapping[str, Any]) -> bytes:
    """Returns the file's content: float32 ``[K, C]`` and ``[C]``, with the description ``about`` in the header."""
    tensors = {"components": np.ascontiguousarray(vectors, np.float32)}
    if mean is not None:
        tensors["mean"] = np.ascontiguousarray(mean, np.float32)
    header = {"format": FORMAT, "version": VERSION, **about}
    return save(tensors, {ABOUT: json.dumps(header, sort_keys=True)})


def read_components(url: str) -> Components:
    """Reads the components at ``url``. Raises RequestError if the file is not valid or a newer version wrote it."""
    try:
        data = files.read_bytes(url)
        about = _about(data)
        check_version(about["version"], VERSION, url, RequestError)
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
    """Returns the header's description. Raises KeyError, TypeError, ValueError if the file has another format."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about: dict[str, Any] = json.loads(header["__metadata__"][ABOUT])
    if about["format"] != FORMAT:
        raise ValueError(f"format {about['format']!r}")
    return about


def _tensors(data: bytes, about: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns components and mean after checking shapes, dtype and keys. Raises KeyError, ValueError."""
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
    """Returns the part of a features spec that the encoder decides. Components fit all stores with the same part."""
    return {name: value for name, value in spec.items() if name not in STORED}


def encoder_fingerprint(spec: Mapping[str, Any]) -> str:
    """Returns the fingerprint of the encoder's own features, neither reduced nor quantised."""
    return fingerprint(encoder_part(spec))
