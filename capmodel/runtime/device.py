"""Devices and precisions of this machine, and the errors that devices raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from captionbeam.schemas.errors import OutOfMemory, RequestError, SystemicError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS = tuple(DTYPES)


def pick_device(name: str = "auto") -> torch.device:
    """Returns the device; ``auto`` is the first CUDA device, else the CPU. Raises RequestError if it does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = named_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"no device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def named_device(name: str) -> torch.device:
    """Returns the device of that name, without checking that it exists. Raises RequestError for an invalid name."""
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise RequestError(f"no device {name!r}; expected auto, cpu, cuda or cuda:N") from err
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"device {name!r} is not supported; expected auto, cpu, cuda or cuda:N")
    return device


def use_threads(count: int) -> None:
    """Sets the number of torch threads, for this thread and those it starts."""
    torch.set_num_threads(count)


def resolve_precision(name: str = "auto", device: str = "auto") -> str:
    """Returns ``fp32`` or ``bf16``; ``auto`` is bf16 if ``device`` multiplies it in hardware, else fp32.

    ``device`` is examined only for ``auto``. Encoding, training and captioning all use this function. Raises
    RequestError.
    """
    if name in PRECISIONS:
        return name
    if name != "auto":
        raise RequestError(f"precision is {name!r}; expected auto, {' or '.join(PRECISIONS)}")
    return "bf16" if has_bf16(pick_device(device)) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware rather than only storing it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()  # amx_bf16 implies amx_tile
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Returns the context in which a model computes in ``precision``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def exact_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Uses deterministic cuDNN kernels and full float32 (no TF32) on CUDA. Applies to the whole process."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


@contextmanager
def device_errors() -> Iterator[None]:
    """Converts out-of-memory errors to OutOfMemory and other device errors to SystemicError."""
    try:
        yield
    except torch.OutOfMemoryError as err:
        torch.cuda.empty_cache()
        raise OutOfMemory(_first_line(err)) from err
    except RuntimeError as err:
        if "can't allocate memory" in str(err):  # torch's CPU allocator raises a plain RuntimeError
            raise OutOfMemory(_first_line(err)) from err
        if any(name in str(err) for name in ("CUDA", "CUBLAS", "cuDNN", "CUDNN")):
            raise SystemicError(f"the device is broken: {_first_line(err)}") from err
        raise


def _first_line(err: Exception) -> str:
    return (str(err) or type(err).__name__).splitlines()[0]
