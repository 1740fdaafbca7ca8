"""Devices and precisions: what this machine has, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from schemas.errors import OutOfMemory, RequestError, SystemicError

PRECISIONS = ("fp32", "bf16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` is the first CUDA device, else the CPU. Raises RequestError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise RequestError(f"no device {name!r}; expected auto, cpu, cuda or cuda:N") from err
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"device {name!r} is not supported; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(
            f"device {name!r} is not on this machine; expected one of {torch.cuda.device_count()}"
        )
    return device


def settle_precision(name: str = "auto", device: torch.device | None = None) -> str:
    """``fp32`` or ``bf16``; ``auto`` is bf16 where the device computes in it. Raises RequestError."""
    if name in PRECISIONS:
        return name
    if name != "auto":
        raise RequestError(f"precision is {name!r}; expected auto, {' or '.join(PRECISIONS)}")
    return "bf16" if has_bf16(device or pick_device()) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed in hardware, and not only stored."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextmanager
def device_errors() -> Iterator[None]:
    """Out of memory becomes OutOfMemory; any other refusal of the device itself SystemicError."""
    try:
        yield
    except torch.OutOfMemoryError as err:
        torch.cuda.empty_cache()
        raise OutOfMemory(str(err).splitlines()[0]) from err
    except torch.AcceleratorError as err:
        raise SystemicError(f"the device is broken: {str(err).splitlines()[0]}") from err
    except RuntimeError as err:
        if "CUDA error" in str(err) or "cuDNN error" in str(err):
            raise SystemicError(f"the device is broken: {str(err).splitlines()[0]}") from err
        if "can't allocate memory" in str(err):
            raise OutOfMemory(str(err).splitlines()[0]) from err
        raise
