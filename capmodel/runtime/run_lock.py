"""An exclusive lock on a checkpoint folder: concurrent runs would load each other's states."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

PATIENCE = 30.0  # seconds, for a run that was just killed to exit


@contextmanager
def sole_run(url: str, patience: float = PATIENCE) -> Iterator[None]:
    """Holds an exclusive lock on the folder ``url``, where the filesystem supports locks.

    Raises RequestError if another process still holds it after ``patience`` seconds.
    """
    fs, path = files.split(url)
    if not files.is_local(fs):
        yield
        return
    os.makedirs(path, exist_ok=True)
    folder = os.open(path, os.O_RDONLY)
    try:
        if not _lock(folder, time.monotonic() + patience):
            raise RequestError(
                f"another run is training into {url}; expected to wait for its end, or another --output"
            )
        yield
    finally:
        os.close(folder)


def _lock(folder: int, deadline: float) -> bool:
    """Acquires the lock; returns False at the deadline, and True where the filesystem has no locks."""
    from fcntl import LOCK_EX, LOCK_NB, flock  # available on POSIX only

    while True:
        try:
            flock(folder, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
            continue
        except OSError:
            pass
        return True
