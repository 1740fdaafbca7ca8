"""A run's progress: events for an observer, scalars for TensorBoard, history entries."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from captionbeam.capmodel.data.epochs import Epochs
from captionbeam.capmodel.training.checkpoints import Position
from captionbeam.capmodel.training.epoch_history import best_epoch
from captionbeam.capmodel.training.phases import Phase

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


class RunProgress:
    """One rank's log of a run with ``phases`` over ``epochs``. A lap is the time since the last step or epoch."""

    def __init__(self, epochs: Epochs, phases: Sequence[Phase], events: EventWriter) -> None:
        self._epochs, self._phases, self._events = epochs, phases, events
        self._lapped = time.monotonic()

    def steps(self, position: Position) -> int:
        """Returns the number of steps since the run began."""
        return position.first_step + self._epochs.steps_until(position.age) + position.step

    def images(self, position: Position) -> int:
        """Returns the number of images since the run began, over all ranks."""
        images, steps = self._epochs.images(position.age), self._epochs.steps(position.age)
        done = images * position.step // steps
        return position.first_image + self._epochs.images_until(position.age) + done

    def begin(self, position: Position, **facts: Any) -> None:
        """Reports the run's start or resumption at ``position``, with further ``facts``."""
        planned = sum(self._epochs.images_until(phase.epochs) for phase in self._phases)
        self._events.begin(self.steps(position), **self._place(position), planned=planned, **facts)
        self._lapped = time.monotonic()

    def step(self, position: Position, facts: Mapping[str, float]) -> Position:
        """Reports a finished step; returns ``position`` with the step's time added."""
        now = time.monotonic()
        spent, self._lapped = now - self._lapped, now
        place = self._place(position)
        before = self.images(replace(position, step=position.step - 1))
        facts = {**facts, "images_per_second": (place["images"] - before) / spent}
        self._events.step(self.steps(position), facts, **place)
        return replace(position, seconds=position.seconds + spent)

    def entry(self, position: Position, scores: Mapping[str, float]) -> dict[str, Any]:
        """Returns the history entry of the epoch that ends at ``position``; its ``scores`` took this lap."""
        return {**self._epoch(position), **scores, "val_seconds": time.monotonic() - self._lapped}

    def epoch(self, position: Position) -> None:
        """Reports the newest history entry at ``position``; restarts the lap."""
        history = position.history
        self._events.epoch(self.steps(position), history[-1], best=best_epoch(history)["epoch"])
        self._lapped = time.monotonic()

    def early_stop(self, facts: Mapping[str, Any]) -> None:
        """Reports a phase that ended early; ``facts`` is one of ``early_stops``."""
        self._events.emit("early_stop", **facts)

    def _epoch(self, position: Position) -> dict[str, Any]:
        if not position.words:
            return {"epoch": position.epoch, "phase": "init"}
        return {
            "epoch": position.epoch + 1,
            "phase": self._phases[position.phase].name,
            "train_loss": position.loss / position.words,
            **{f"train_{name}": value / position.images for name, value in position.measures.items()},
            "seconds": position.seconds,
            "images": self.images(position),
            "images_per_second": self._epochs.images(position.age) / position.seconds,
        }

    def _place(self, position: Position) -> dict[str, int]:
        return {"epoch": position.epoch, "step": position.step, "images": self.images(position)}
