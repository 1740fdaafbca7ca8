"""Byte ranges of files, and the limits for reading them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from captionbeam.schemas.errors import RequestError


@dataclass(frozen=True)
class FetchOptions:
    """Limits for reading. A longer image is a failure (photographs are below 64 MiB), which bounds a worker's memory.

    ``timeout`` is in seconds per try; ``connections`` is the number of concurrent remote reads in one call.
    ``trusted`` are locations that the user named: only those ``http://host:port`` receive the user's HTTP
    credentials, and lists may refer to files below those folders. Private HTTP addresses are refused unless
    ``allow_private`` is set or their ``http://host:port`` is in ``inside``.
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


# Listings use one more try, as a listing delays only one worker.
LISTING = FetchOptions(attempts=5, allow_private=True)  # the user named these sources


class ByteRange(NamedTuple):
    """Bytes ``start`` (inclusive) to ``end`` (exclusive) of a file; without ``end``, the whole file."""

    url: str
    start: int = 0
    end: int | None = None
