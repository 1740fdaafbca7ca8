"""What is read: spans of files, within limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from captionbeam.schemas.errors import RequestError


@dataclass(frozen=True)
class FetchOptions:
    """Limits of reading. Photographs are below 64 MiB; what is longer is a failure, not a worker's memory.

    ``timeout`` is seconds for one try, ``connections`` how many remote reads are under way in one call. ``trusted`` is
    what the user named: each ``http://host:port`` gets his credentials for HTTP, no other does, and a list may lead
    below each folder. By HTTP addresses that are not for everybody are refused unless ``allow_private``, or their
    ``http://host:port`` is one of ``inside``.
    """

    max_bytes: int = 64 << 20
    timeout: float = 60.0
    attempts: int = 4
    connections: int = 32
    allow_private: bool = False
    trusted: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_bytes", "timeout", "attempts", "connections"):
            if getattr(self, name) <= 0:
                raise RequestError(f"{name} is {getattr(self, name)!r}; expected a number above 0")


# How listings read: what they hold up is one worker, so that one more try costs little.
LISTING = FetchOptions(attempts=5, allow_private=True)  # of a source that somebody named on purpose


class Span(NamedTuple):
    """Bytes ``start`` to before ``end`` of a file, fewer where it ends; without ``end``, the whole file."""

    url: str
    start: int = 0
    end: int | None = None
