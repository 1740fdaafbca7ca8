"""An error of ours is said once, by the launcher: Beam says it up to ten times on the way, with tracebacks."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TextIO

from captionbeam.pipelines.workers.boundary import MARK

PLUGIN = "captionbeam.pipelines.runners.log_filter_plugin"
# Of no use to whoever started a job: a worker on this machine needs no such folder; Prism begins, fails, ends
_NOISE = (
    "No semi_persistent_directory found",
    "Discarding unparseable args",
    "Serving JobManagement",
    "Prism received bundle error",
    "stage.Execute aborting",
    "pipeline done!",
)


class Unmarked(io.TextIOBase):
    """A stream that passes on all but writes with an error of ours in them, and the line end after such a write.

    ``over``: from now on nothing at all.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._dropped, self.over = stream, False, False

    def write(self, text: str) -> int:
        self._dropped, after = self.over or MARK in text, self._dropped
        if not self._dropped and not (after and text == "\n"):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


@contextmanager
def said_once() -> Iterator[Unmarked]:
    """While the block runs, Beam's harnesses and loggers in this process are silent about errors of ours.

    Gives the block's standard error.
    """
    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(is_wanted)
    try:
        with redirect_stderr(Unmarked(sys.stderr)) as stderr:
            yield stderr
    finally:
        for handler in handlers:
            handler.removeFilter(is_wanted)


def is_wanted(record: logging.LogRecord) -> bool:
    """Whether a log record says anything that the launcher does not say itself."""
    text = record.getMessage().replace("\\u003c", "<")  # Prism logs JSON as Go writes it
    return MARK not in text and not any(noise in text for noise in _NOISE)
