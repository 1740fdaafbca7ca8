"""When a request is repeated, and when it is always wrong."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

FIRST_ANSWERS = 20  # by which a request that is always wrong is recognized


class FirstAnswers:
    """Recognizes requests that are always wrong. Threads may share it.

    ``alike``: only if all errors have the same message.
    """

    def __init__(self, alike: bool = False) -> None:
        self._alike, self._lock = alike, threading.Lock()
        self._good, self._count, self._messages = False, 0, set[str]()

    def good(self) -> None:
        """Notes a good answer: nothing is always wrong."""
        self._good = True

    def bad(self, message: str) -> bool:
        """Notes a bad answer. Returns whether the first answers are all bad."""
        with self._lock:
            self._count += 1
            if self._count <= FIRST_ANSWERS:
                self._messages.add(message)
            same = len(self._messages) == 1 or not self._alike
            return not self._good and same and self._count >= FIRST_ANSWERS


@dataclass
class Tries:
    """The failed tries of one request, and the seconds since the first."""

    count: int = 0
    _first: float = field(default=float("inf"))

    def failed(self) -> None:
        """Counts a failed try."""
        self.count += 1
        self._first = min(self._first, time.monotonic())

    @property
    def seconds(self) -> float:
        """The seconds since the first failed try."""
        return max(0.0, time.monotonic() - self._first)
