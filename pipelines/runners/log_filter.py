"""Filters Beam's logs, so that the launcher reports a captionbeam error once.

Beam itself logs such an error up to ten times, with tracebacks.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TextIO

from captionbeam.pipelines.workers.boundary import MARK

PLUGIN = "captionbeam.pipelines.runners.log_filter_plugin"
# Messages of no use to users: local workers need no such folder, Prism starts, fails and ends, and bundles beside the
# one that failed lose their connection (a RuntimeError without a message).
_NOISE = (
    "No semi_persistent_directory found",
    "Discarding unparseable args",
    "Serving JobManagement",
    "Prism received bundle error",
    "stage.Execute aborting",
    "pipeline done!",
    "state request after bundle inactive",
    "RuntimeError [while running",
)


class Unmarked(io.TextIOBase):
    """A stream that drops writes with a captionbeam error in them, and the line end after such a write.

    ``over``: drop all further writes.
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
    """During the block, Beam's harnesses and loggers in this process do not report captionbeam errors.

    Yields the block's standard error.
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
    """Returns whether a log record contains information that the launcher does not report itself."""
    text = record.getMessage().replace("\\u003c", "<")  # Prism logs JSON with Go's escapes
    return MARK not in text and not any(noise in text for noise in _NOISE)
