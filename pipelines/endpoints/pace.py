"""Limits of requests and tokens per minute for a whole run, shared by its live worker processes."""

from __future__ import annotations


class Pace:
    """Lets requests pass as fast as the limits allow. Threads may share it.

    ``requests``, ``tokens``: per minute, for all processes of the run together; None: no limit. A process is alone
    until it joins a run.
    """

    def __init__(self, requests: float | None, tokens: float | None) -> None:
        raise NotImplementedError

    def join(self, folder: str) -> None:
        """Shares the limits with the other processes of the run in ``folder``, where each keeps a record of itself."""

    def wait(self) -> None:
        """Waits until one more request may be sent."""

    def used(self, tokens: int) -> None:
        """Counts the tokens of a finished request."""

    def pause(self, seconds: float) -> None:
        """Holds back all requests of this process for ``seconds``, as the server asked."""

    def close(self) -> None:
        """Removes the process's record."""
