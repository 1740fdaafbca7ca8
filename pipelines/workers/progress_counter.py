"""Counts images that went through a model in this process, to show progress between commits.

If workers are separate processes, the launcher counts nothing here, and only commits show the progress.
"""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
_counts: Counter[str] = Counter()


def add(run_id: str, images: int) -> None:
    """Adds to a run's number of images."""
    with _lock:
        _counts[run_id] += images


def count(run_id: str) -> int:
    """Returns a run's number of images in this process."""
    with _lock:
        return _counts[run_id]
