"""Local runs: Ctrl-C, SIGTERM and a killed worker process are each reported in one sentence."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import apache_beam as beam
import grpc
from apache_beam.runners.runner import PipelineResult

from captionbeam.pipelines.runners.log_filter import Unmarked
from captionbeam.pipelines.workers.boundary import unmarked
from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.machine import handling_signals

_ENDED = re.compile(r"Worker subprocess exited with return code (-?\d+)")


@contextmanager
def attending(pipeline: beam.Pipeline, stderr: Unmarked) -> Iterator[Callable[[], PipelineResult]]:
    """Yields a function that runs ``pipeline``. SIGTERM ends it like Ctrl-C, without further output on ``stderr``.

    Raises SystemicError if a worker process ended, and KeyboardInterrupt, which Beam may have made an error of its own.
    """
    ended: list[str] = []
    signals: list[int] = []

    def note(thread: threading.ExceptHookArgs) -> None:
        found = _ENDED.match(str(thread.exc_value))
        if found is not None:
            ended.append(found[1])
            _be_silent(stderr)
        elif not isinstance(thread.exc_value, grpc.RpcError):  # else the job's own error gives the reason
            earlier(thread)

    earlier, threading.excepthook = threading.excepthook, note
    try:
        with _interruptible(stderr, signals):
            yield pipeline.run
        threading.excepthook = earlier
    except Exception as err:
        if signals:
            raise KeyboardInterrupt from err
        if not ended or unmarked(err) is not None:
            raise
        raise SystemicError(
            f"a worker process ended with status {ended[0]}; expected it to live, with memory for all of them; the "
            "same command resumes"
        ) from err


@contextmanager
def _interruptible(stderr: Unmarked, signals: list[int]) -> Iterator[None]:
    """Raises KeyboardInterrupt on Ctrl-C and SIGTERM during the block, in the main thread (only it receives signals).

    Adds the signal to ``signals``. Silences Beam first: its workers end while the exception travels, and report what
    they were doing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        _be_silent(stderr)
        signals.append(number)
        raise KeyboardInterrupt

    with handling_signals(interrupt):
        yield


def _be_silent(stderr: Unmarked) -> None:
    """Suppresses further output of Beam's threads while their workers end."""
    stderr.over = True
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam.runners.worker").setLevel(logging.CRITICAL)
