"""Devices and precisions of this machine, and the errors that devices raise."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from captionbeam.schemas.errors import OutOfMemory, RequestError, SystemicError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS = tuple(DTYPES)
# errors that are plain RuntimeErrors: of torch's CPU allocator, of CUDA's libraries and driver
OUT_OF_MEMORY = ("can't allocate memory", "ALLOC_FAILED", "CUDA error: out of memory")
NAMES = "auto, cpu, cuda, cuda:N or cuda:N,cuda:M"


def pick_devices(name: str = "auto") -> list[torch.device]:
    """Returns the devices of that name: ``cuda`` is all CUDA devices; ``auto`` too, if there are any, else the CPU.

    Several names are separated by commas; each is a device with a copy of the model. Raises RequestError if one does
    not exist, or if they are not of one kind.
    """
    count = torch.cuda.device_count()
    found: list[torch.device] = []
    for device in named_devices(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"):
        if device.type == "cuda" and (device.index or 0) >= count:
            raise RequestError(f"no device {str(device)!r}: this machine has {count} CUDA devices")
        every = device == torch.device("cuda")
        found += [torch.device("cuda", index) for index in range(count)] if every else [device]
    return found


def pick_device(name: str = "auto") -> torch.device:
    """Returns the first of ``pick_devices``."""
    return pick_devices(name)[0]


def named_devices(name: str) -> list[torch.device]:
    """Returns the devices of that name, without checking that they exist. Raises RequestError for an invalid name."""
    try:
        devices = [torch.device(one) for one in name.split(",")]
    except RuntimeError as err:
        raise RequestError(f"no device {name!r}; expected {NAMES}") from err
    if {device.type for device in devices} not in ({"cpu"}, {"cuda"}):
        raise RequestError(f"device {name!r} is not supported; expected {NAMES}")
    return devices


def use_threads(count: int) -> None:
    """Sets the number of torch threads, for this thread and those it starts."""
    torch.set_num_threads(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs the block on one torch thread: for hundreds of small tensors, such as a network's weights.

    Several threads are no faster there, and wait for each other at each tensor where other processes use the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resolve_precision(name: str = "auto", device: str = "auto") -> str:
    """Returns ``fp32`` or ``bf16``; ``auto`` is bf16 if ``device`` multiplies it in hardware, else fp32.

    ``device`` is examined only for ``auto``. Encoding, training and captioning all use this function. Raises
    RequestError.
    """
    if name in PRECISIONS:
        return name
    if name != "auto":
        raise RequestError(f"precision is {name!r}; expected auto, {' or '.join(PRECISIONS)}")
    return "bf16" if all(map(has_bf16, pick_devices(device))) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware rather than only storing it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()  # amx_bf16 implies amx_tile
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Returns the context in which a model computes in ``precision``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def exact_device(name: str = "auto") -> torch.device:
    """Returns ``pick_device``; on CUDA, cuDNN then has deterministic kernels and full float32 (no TF32).

    This applies to the whole process and from now on: flags that a block restores would change while other threads
    compute.
    """
    device = pick_device(name)
    if device.type == "cuda":
        cudnn: Any = torch.backends.cudnn
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = False, True, False
    return device


@contextmanager
def device_errors() -> Iterator[None]:
    """Converts out-of-memory errors to OutOfMemory and other device errors to SystemicError."""
    try:
        yield
    except RuntimeError as err:
        if isinstance(err, torch.OutOfMemoryError) or any(words in str(err) for words in OUT_OF_MEMORY):
            traceback.clear_frames(err.__traceback__)  # they hold the layers' activations
            torch.cuda.empty_cache()
            raise OutOfMemory(_first_line(err)) from err
        if any(name in str(err) for name in ("CUDA", "CUBLAS", "cuDNN", "CUDNN")):
            raise SystemicError(f"the device is broken: {_first_line(err)}") from err
        raise


def _first_line(err: Exception) -> str:
    return (str(err) or type(err).__name__).splitlines()[0]
