"""Weights: found by a torchvision name, a path or a URL, checked, and kept in a store by their content hash.

No pickle is ever loaded: a ``.pth`` is read with ``weights_only=True`` on the launcher, and kept as safetensors.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from urllib.error import URLError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from schemas import files
from schemas.errors import FingerprintError, RequestError
from schemas.fingerprint import sha256_bytes

State = dict[str, Tensor]


def read_weights(where: str) -> State:
    """A ``.safetensors`` or ``.pth`` file at a path or URL, ``#sha256=HEX`` after it if it is to be checked.

    Raises RequestError for a file that is not there or is neither, FingerprintError for another hash.
    """
    url, _, wanted = where.partition("#sha256=")
    try:
        data = files.read_bytes(url)
    except (OSError, ValueError, ImportError) as err:
        raise RequestError(
            f"weights {url!r} cannot be read: {err or 'not there'}; expected a file or URL"
        ) from err
    found = sha256_bytes(data)
    if wanted and wanted.lower() != found:
        raise FingerprintError(f"weights {url!r} have sha256 {found}; expected {wanted.lower()}")
    return _parse(url, data)


def _parse(url: str, data: bytes) -> State:
    try:
        if data[:2] != b"PK" and data[8:9] == b"{":
            return safetensors.torch.load(data)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as err:
        raise RequestError(
            f"weights {url!r} cannot be read: {str(err).splitlines()[0]}; expected .safetensors or .pth"
        ) from err
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(f"weights {url!r} hold no state dict; expected names and tensors")
    return dict(state)


def hub_weights(model: str, name: str) -> State:
    """Weights of a torchvision model by their name, as ``IMAGENET1K_V1``. Raises RequestError."""
    from torchvision.models import get_model_weights

    known = get_model_weights(model).__members__
    if name not in known:
        raise RequestError(
            f"weights {name!r} are neither a file nor of {model}; expected {', '.join(known)}, or a file"
        )
    try:
        return dict(known[name].get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as err:
        raise RequestError(
            f"weights {name} of {model} cannot be fetched from the hub ({err}); expected a connection, or --weights FILE"
        ) from err


def load_strictly(model: nn.Module, state: State, what: str) -> None:
    """Load ``state`` into ``model``, every key and shape. Raises RequestError that names the first that differ."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    wanted = {key: shape for key, shape in wanted.items() if not key.endswith("num_batches_tracked")}
    found = {key: shape for key, shape in found.items() if not key.endswith("num_batches_tracked")}
    for said, keys in (
        ("lack", wanted.keys() - found.keys()),
        ("have the unknown", found.keys() - wanted.keys()),
    ):
        if keys:
            raise RequestError(
                f"the weights {said} key {sorted(keys)[0]!r} ({len(keys)} such); expected those of {what}"
            )
    for key, shape in wanted.items():
        if found[key] != shape:
            raise RequestError(f"weight {key!r} has shape {list(found[key])}; {what} expects {list(shape)}")
    model.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in state.items()},
        strict=False,
    )


def weights_bytes(state: State) -> bytes:
    """``state`` as a safetensors file; equal weights give equal bytes, however they arrived."""
    tensors = {
        key: state[key].detach().contiguous().cpu()
        for key in sorted(state)
        if not key.endswith("num_batches_tracked")
    }
    return safetensors.torch.save(tensors)


def weights_url(models_url: str, sha256: str) -> str:
    """Where weights of this hash are kept below a store's ``models/``."""
    return files.join(models_url, f"{sha256}.safetensors")


def store_weights(state: State, models_url: str) -> str:
    """Keep ``state`` below ``models_url`` under its hash, unless it is there; gives its URL."""
    data = weights_bytes(state)
    url = weights_url(models_url, sha256_bytes(data))
    files.create(url, data)
    return url
