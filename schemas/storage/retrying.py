"""Trying again: what a distant storage refuses for the moment is asked for once more, ever later and at random.

It sits below everything that reads, lists or writes, around one request at a time, so that nothing is done twice that
was not asked for twice. gcsfs and s3fs ask again themselves, but neither heeds ``Retry-After``, and each lets through
what passes as well: gcsfs a timeout, s3fs 429 and most of 5xx.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

TRIES = (
    8  # of one request; all the waiting together is half a minute at most, one and a half where it is told to
)
FIRST_WAIT, LONGEST_WAIT = 0.25, 16.0  # seconds between tries, drawn at random below a doubling limit
LONGEST_HEEDED = 60.0  # of what a server asks to wait
CONNECT_SECONDS, SILENT_SECONDS = (
    20.0,
    60.0,
)  # a connection that takes longer, or says nothing for longer, is given up

_RESTS = frozenset({408, 425, 429})
_draw = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)
_once: ContextVar[bool] = ContextVar("once", default=False)
Answer = TypeVar("Answer")


@contextmanager
def one_try() -> Iterator[None]:
    """Inside, a request is made once: who asks counts the tries."""
    token = _once.set(True)
    try:
        yield
    finally:
        _once.reset(token)


def is_once() -> bool:
    """Whether somebody further out counts the tries."""
    return _once.get()


async def patiently(
    ask: Callable[[int], Awaitable[Answer]], passes: Callable[[BaseException], bool]
) -> Answer:
    """What ``ask(attempt)``, from 1 on, answers, asked again while ``passes`` says that its error may go away."""
    if is_once():
        return await ask(1)
    async for attempt in AsyncRetrying(
        stop=stop_after_attempt(TRIES), wait=wait, retry=retry_if_exception(passes), reraise=True
    ):
        with attempt, one_try():
            return await ask(attempt.retry_state.attempt_number)
    raise AssertionError("tenacity raises the last error")


def wait(state: RetryCallState) -> float:
    """Seconds to the next try: drawn at random, and not before the server wants to be asked again."""
    error = state.outcome.exception() if state.outcome else None
    return max(_draw(state), min(LONGEST_HEEDED, getattr(error, "retry_after", 0.0)))


def passes_by(status: int | None) -> bool:
    """Whether an HTTP status says that the same request may succeed a moment later."""
    return status is not None and (status in _RESTS or status >= 500) and status != 501


def seconds_asked(header: str | None) -> float:
    """What a ``Retry-After`` says, in seconds or as a date (RFC 9110, 10.2.3); 0 where it says nothing."""
    if not header:
        return 0.0
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def note(error: BaseException, header: Any) -> None:
    """Leave with ``error`` what its answer's ``Retry-After`` says, for ``wait``."""
    if seconds := seconds_asked(header):
        error.retry_after = seconds  # type: ignore[attr-defined]
