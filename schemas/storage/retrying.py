"""Retries of storage requests: exponential backoff with random jitter.

Retries wrap single requests, below all reads, listings and writes, so completed requests are not repeated. gcsfs and
s3fs have their own retries, but neither honours ``Retry-After``, and both miss transient errors: gcsfs timeouts, s3fs
429 and most 5xx.
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

ATTEMPTS = 8  # per request; total wait at most 32 s, or 7 minutes if Retry-After asks for it
FIRST_WAIT, LONGEST_WAIT = 0.25, 16.0  # seconds between tries: random, below a limit that doubles
MAX_RETRY_AFTER = 60.0  # maximum seconds taken from Retry-After
CONNECT_TIMEOUT, READ_TIMEOUT = 20.0, 60.0  # seconds to connect, and without data

_RESTS = frozenset({408, 425, 429})
_draw = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)
_once: ContextVar[bool] = ContextVar("once", default=False)
Answer = TypeVar("Answer")


@contextmanager
def single_attempt() -> Iterator[None]:
    """Disables retries inside the block, because the caller counts the tries."""
    token = _once.set(True)
    try:
        yield
    finally:
        _once.reset(token)


def is_single_attempt() -> bool:
    """Returns whether an outer caller counts the tries."""
    return _once.get()


async def retry_async(
    ask: Callable[[int], Awaitable[Answer]], passes: Callable[[BaseException], bool]
) -> Answer:
    """Returns the result of ``ask(attempt)`` (from 1), retried while ``passes`` says that its error is transient."""
    if is_single_attempt():
        return await ask(1)
    async for attempt in AsyncRetrying(
        stop=stop_after_attempt(ATTEMPTS), wait=wait, retry=retry_if_exception(passes), reraise=True
    ):
        with attempt, single_attempt():
            return await ask(attempt.retry_state.attempt_number)
    raise AssertionError("tenacity raises the last error")


def wait(state: RetryCallState) -> float:
    """Returns the seconds until the next try: random, and at least what the server's Retry-After asks for."""
    error = state.outcome.exception() if state.outcome else None
    return max(_draw(state), min(MAX_RETRY_AFTER, getattr(error, "retry_after", 0.0)))


def is_transient_status(status: int | None) -> bool:
    """Returns whether an HTTP status is transient, so that the same request may succeed later."""
    return status is not None and (status in _RESTS or status >= 500) and status != 501


def parse_retry_after(header: str | None) -> float:
    """Parses ``Retry-After``, in seconds or as a date (RFC 9110, 10.2.3); 0 if absent or invalid."""
    if not header:
        return 0.0
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def note_retry_after(error: BaseException, header: Any) -> None:
    """Stores the response's ``Retry-After`` on ``error``, for ``wait``."""
    if seconds := parse_retry_after(header):
        error.retry_after = seconds  # type: ignore[attr-defined]
