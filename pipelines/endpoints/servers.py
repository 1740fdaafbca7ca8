"""A model server on each worker machine, shared by its processes: started, watched, restarted and stopped."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Server:
    """The machine's server for ``command``. A context manager; the last process that leaves it stops the server.

    ``command``: how to start it, with ``{port}``; ``model``: what it serves. Raises SystemicError if it does not start.
    """

    def __init__(self, command: str, model: str, start_timeout: float) -> None:
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The base URL of its API, such as ``http://127.0.0.1:8000/v1``."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError
