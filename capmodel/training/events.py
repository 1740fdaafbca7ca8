"""Reports a run's progress: events for an observer, and scalars for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Report = Callable[[Mapping[str, Any]], None]
EVENT_SECONDS = 0.5
SCALAR_STEPS = 10


class EventWriter:
    """Writes on the first rank only; on other ranks (``on`` False) it does nothing.

    ``report`` gets events: plain dicts whose ``event`` is ``begin``, ``step``, ``epoch``, ``early_stop``, ``stopped``
    or ``saved``.
    """

    def __init__(self, folder: str, report: Report, on: bool = True) -> None:
        self._folder, self._report, self._on = folder, report, on
        self._writer: SummaryWriter | None = None
        self._reported_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def begin(self, count: int, **facts: Any) -> None:
        """Starts after ``count`` steps of the whole run; drops later points of an earlier process."""
        if self._on:
            from torch.utils.tensorboard import SummaryWriter  # imported here, as other ranks do not need it

            self._writer = SummaryWriter(self._folder, purge_step=count + 1)
            self.emit("begin", **facts)

    def step(self, count: int, facts: Mapping[str, float], **place: Any) -> None:
        """Reports a finished step, the ``count``-th of the whole run, at limited frequency."""
        if not self._on:
            return
        if count % SCALAR_STEPS == 0:
            self._draw("train", facts, count)
        if time.monotonic() - self._reported_at >= EVENT_SECONDS:
            self._reported_at = time.monotonic()
            self.emit("step", **facts, **place)

    def epoch(self, count: int, entry: Mapping[str, Any], best: int) -> None:
        """Reports a finished epoch, the run's steps up to its end (``count``) and the ``best`` epoch so far."""
        if self._on:
            self._draw("epoch", {key: entry[key] for key in entry if isinstance(entry[key], float)}, count)
            self.emit("epoch", **{**entry, "best": best})

    def _draw(self, group: str, facts: Mapping[str, float], step: int) -> None:
        if self._writer:
            for name, value in facts.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def emit(self, event: str, **facts: Any) -> None:
        """Reports an event."""
        if self._on:
            self._report({"event": event, **facts})
