"""A progress line for long steps: a bar on a terminal, periodic plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from captionbeam.jobs.ui.terminal import is_speaking, visible

PLAIN_SECONDS = 10.0


def clock(seconds: float) -> str:
    """Formats seconds as ``1:02:03`` or ``2:03``."""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class Progress:
    """``with Progress("encode", total) as progress: progress.update(done, failures=3)``.

    ``total`` may become known later. The rate is measured from the start. Silent where commands print nothing.
    """

    def __init__(
        self, description: str, total: int | None = None, unit: str = "images", stream: TextIO | None = None
    ):
        self._description, self._total, self._unit = description, total, unit
        self._stream = stream or sys.stderr
        self._start = self._said = time.monotonic()
        self._line = ""
        self._silent = not is_speaking()
        self._bars = _bars(self._stream) if self._stream.isatty() and not self._silent else None
        self._task = self._bars.add_task(description, total=total, note="") if self._bars else None

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()
        elif kind is None and self._line:
            self._print(self._line)

    def update(self, done: int, total: int | None = None, **fields: Any) -> None:
        """Shows the number ``done`` and further fields."""
        self._total = self._total if total is None else total
        note = self._note(done, fields)
        if self._bars and self._task is not None:
            self._bars.update(self._task, completed=done, total=self._total, note=note)
            return
        self._line = (
            f"{self._description}: {done:,} of {self._total or 0:,} {self._unit}{note}{self._left(done)}"
        )
        if time.monotonic() - self._said >= PLAIN_SECONDS:
            self._said = time.monotonic()
            self._print(self._line)

    def say(self, text: str) -> None:
        """Shows a text while there is nothing to count."""
        if self._bars and self._task is not None:
            self._bars.update(self._task, note=visible(text))
        else:
            self._print(f"{self._description}: {text}")

    def _print(self, line: str) -> None:
        if self._silent:
            return
        with suppress(BrokenPipeError):  # the work continues if nobody reads the progress
            print(visible(line), file=self._stream, flush=True)

    def _note(self, done: int, fields: dict[str, Any]) -> str:
        rate = done / max(time.monotonic() - self._start, 1e-9)
        said = [
            f"{rate:.1f} {self._unit}/s",
            *(f"{value} {name.replace('_', ' ')}" for name, value in fields.items()),
        ]
        return ", " + ", ".join(said)

    def _left(self, done: int) -> str:
        if not self._total or not 0 < done < self._total:
            return ""
        spent = time.monotonic() - self._start
        return f", {clock(spent / done * (self._total - done))} left"


@contextmanager
def watching(progress: Progress, look: Callable[[Progress], None], pause: float = 1.0) -> Iterator[None]:
    """Calls ``look(progress)`` in a background thread, every ``pause`` seconds and once at the end."""
    stop = threading.Event()

    def loop() -> None:
        with progress:
            while not stop.wait(pause):
                look(progress)
            look(progress)

    thread = threading.Thread(target=loop, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bars(stream: TextIO) -> Bars:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    return Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(file=stream))
