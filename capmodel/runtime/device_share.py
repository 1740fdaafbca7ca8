"""Divides a machine's devices among the processes that compute on them, by locks in the temporary folder."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import tempfile
from collections.abc import Sequence
from weakref import WeakValueDictionary

import torch
from filelock import FileLock, Timeout

from captionbeam.schemas.machine import cores

_log = logging.getLogger(__name__)


class Place:
    """This process's number, from 0, among the user's processes on this machine that compute on the same devices.

    It is free again when nothing refers to this object, or when the process ends, however it ends.
    """

    def __init__(self, devices: str) -> None:
        folder = os.path.join(tempfile.gettempdir(), f"captionbeam-devices-{os.getuid()}")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for self.number in itertools.count():
            path = os.path.join(folder, f"{hashlib.sha256(devices.encode()).hexdigest()[:16]}.{self.number}")
            self._lock = FileLock(path, thread_local=False)  # which the thread that drops it releases
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                continue
            return


_places: WeakValueDictionary[tuple[int, str], Place] = WeakValueDictionary()


def _own_place(devices: str) -> Place:
    key = os.getpid(), devices  # a forked process inherits the dictionary
    return _places.get(key) or _places.setdefault(key, Place(devices))


class DeviceShare:
    """The ``devices`` of this process out of those of its machine, and their ``names``, all different.

    Each of the machine's ``processes`` (0: one per core) gets its part of ``devices``, by its place. More processes
    than devices, or than expected, share a device. Engines of one process have the same share. Keep this object while
    the devices are used.
    """

    def __init__(self, devices: Sequence[torch.device], processes: int = 1) -> None:
        key = ",".join(map(_identity, devices))
        self._place = None if key == "cpu" else _own_place(key)
        number, among = self._place.number if self._place else 0, processes or cores()
        own = range(number, len(devices), among) if number < among else ()
        indices = own or [number % len(devices)]
        self.devices = [devices[index] for index in indices]
        self.names = [_name(devices, index) for index in indices]
        if not own:
            _log.warning(
                "%s is shared with another process: this is process %d for %d devices; each has a copy of the model",
                *(self.names[0], number + 1, len(devices)),
            )


def _identity(device: torch.device) -> str:
    """Returns what names the same GPU in processes that see other GPUs of the machine, too."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else str(device)


def _name(devices: Sequence[torch.device], index: int) -> str:
    """Returns for example ``cuda:1``; ``cpu#1`` and ``cpu#2`` where a device is named twice."""
    alike = [other for other, device in enumerate(devices) if device == devices[index]]
    return str(devices[index]) if len(alike) == 1 else f"{devices[index]}#{alike.index(index) + 1}"
