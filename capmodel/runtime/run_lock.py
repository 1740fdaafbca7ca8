"""An exclusive lock on a checkpoint folder: concurrent runs would load each other's states."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

LOCK = ".lock"
SECONDS = 30.0  # for a run that was just killed to exit


@contextmanager
def exclusive_run(url: str, timeout: float = SECONDS) -> Iterator[None]:
    """Holds an exclusive lock on the folder ``url``, where the filesystem supports locks.

    Raises RequestError if another process still holds it after ``timeout`` seconds.
    """
    fs, path = files.split(url)
    if not files.is_local(fs):
        yield
        return
    os.makedirs(path, exist_ok=True)
    lock = FileLock(os.path.join(path, LOCK), timeout=timeout)
    try:
        lock.acquire()
    except Timeout as err:
        raise RequestError(
            f"another run is training into {url}; expected to wait for its end, or another --output"
        ) from err
    except (OSError, NotImplementedError):  # the filesystem has no locks
        pass
    try:
        yield
    finally:
        lock.release()
