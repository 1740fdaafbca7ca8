"""Images that went through a model in this very process, for a progress line between commits.

Where workers are other processes the launcher sees nothing here, and commits alone tell how far a run is.
"""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
_seen: Counter[str] = Counter()


def seen(run_id: str, images: int) -> None:
    """Add images of a run."""
    with _lock:
        _seen[run_id] += images


def count(run_id: str) -> int:
    """Images of a run that this process has seen."""
    with _lock:
        return _seen[run_id]
