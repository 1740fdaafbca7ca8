"""Devices and precisions: what this machine has, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from captionbeam.schemas.errors import OutOfMemory, RequestError, SystemicError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS = tuple(DTYPES)


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` is the first CUDA device, else the CPU. Raises RequestError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = named_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"no device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def named_device(name: str) -> torch.device:
    """A device by its name, on whatever machine. Raises RequestError for what is no name of one."""
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise RequestError(f"no device {name!r}; expected auto, cpu, cuda or cuda:N") from err
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"device {name!r} is not supported; expected auto, cpu, cuda or cuda:N")
    return device


def use_threads(count: int) -> None:
    """Let torch compute on this many threads, in this thread and those that it starts."""
    torch.set_num_threads(count)


def settle_precision(name: str = "auto", device: str = "auto") -> str:
    """``fp32`` or ``bf16``; ``auto`` is bf16 where ``device`` multiplies it in hardware, else fp32.

    ``device`` is looked for only where ``auto`` is asked. Encoding, training and captioning all ask here.
    Raises RequestError.
    """
    if name in PRECISIONS:
        return name
    if name != "auto":
        raise RequestError(f"precision is {name!r}; expected auto, {' or '.join(PRECISIONS)}")
    return "bf16" if has_bf16(pick_device(device)) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, and does not only store it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()  # AMX for bfloat16 comes with the tiles that it works on
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


def exact_kernels(device: torch.device) -> AbstractContextManager[None]:
    """On CUDA the same kernels every time, and float32 that is float32: no TF32. Settings of the whole process."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


@contextmanager
def device_errors() -> Iterator[None]:
    """Out of memory becomes OutOfMemory; any other refusal of the device itself SystemicError."""
    try:
        yield
    except torch.OutOfMemoryError as err:
        torch.cuda.empty_cache()
        raise OutOfMemory(_first_line(err)) from err
    except RuntimeError as err:
        if "can't allocate memory" in str(err):  # torch's allocator of main memory has no error of its own
            raise OutOfMemory(_first_line(err)) from err
        if any(name in str(err) for name in ("CUDA", "CUBLAS", "cuDNN", "CUDNN")):
            raise SystemicError(f"the device is broken: {_first_line(err)}") from err
        raise


def _first_line(err: Exception) -> str:
    return (str(err) or type(err).__name__).splitlines()[0]
