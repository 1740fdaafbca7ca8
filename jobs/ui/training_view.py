"""Terminal output of a training run: a progress bar, a line per epoch, a final table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.jobs.ui.progress import Progress, clock
from captionbeam.jobs.ui.summary import print_table
from captionbeam.jobs.ui.terminal import say

DONE, STOPPED = 0, 1


class TrainingView:
    """Shows the events of one run (captionbeam.capmodel.training.progress). A context manager."""

    def __init__(self, options: TrainOptions) -> None:
        self._options, self._start = options, time.monotonic()
        self._begin: Mapping[str, Any] = {}
        self._end: Mapping[str, Any] = {}
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)

    def show(self, event: Mapping[str, Any]) -> None:
        """Shows one event."""
        getattr(self, f"_show_{event['event']}")(event)

    def finish(self) -> int:
        """Prints the result. Returns the exit status."""
        if not self._end:  # a process of an outer torchrun that is not the first
            return DONE
        if self._end["event"] == "stopped":
            place = f"after {self._end['step']} steps of epoch {self._end['epoch'] + 1}"
            say(f"stopped {place}; the same command resumes from {self._options.checkpoints}")
            return STOPPED
        print_table(f"train: {self._options.output}", self._rows(self._end))
        return DONE

    def _show_begin(self, event: Mapping[str, Any]) -> None:
        self._begin = event
        going_on = event["epoch"] or event["step"]
        where = f", going on after {event['step']} steps of epoch {event['epoch'] + 1}" if going_on else ""
        say(
            f"{event['train_images']:,} images to train on, {event['val_images']:,} to validate with; "
            f"{event['parameters']:,} parameters, {event['precision']} on {event['device']}, "
            f"workers: {event['workers']}{where}"
        )
        if event.get("vectors"):
            found, asked = event["vectors"]
            say(f"{found:,} of {asked:,} tokens have a vector in {self._options.embeddings}")
        self._bar = Progress("training", event["planned"] - event["images"]).__enter__()

    def _show_step(self, event: Mapping[str, Any]) -> None:
        if self._bar is None:
            return
        where = f"{event['epoch'] + 1} of {self._begin['epochs']}"
        rewards: dict[str, Any] = {
            name: f"{event[name]:.3f}" for name in ("reward", "baseline") if name in event
        }
        self._bar.update(self._done(event), epochs=where, loss=f"{event['loss']:.3f}", **rewards)

    def _done(self, event: Mapping[str, Any]) -> int:
        """Returns the images since this process began."""
        return event["images"] - self._begin["images"]

    def _show_epoch(self, event: Mapping[str, Any]) -> None:
        if self._bar is not None and event["epoch"]:
            self._bar.update(self._done(event), loss=f"{event['train_loss']:.3f}")
        say(epoch_line(event, self._begin["epochs"], event["best"]))

    def _show_early_stop(self, event: Mapping[str, Any]) -> None:
        say(stop_line(event))

    def _show_stopped(self, event: Mapping[str, Any]) -> None:
        self._end = event

    _show_saved = _show_stopped

    def _rows(self, best: Mapping[str, Any]) -> dict[str, str]:
        options = self._options
        return {
            "features": f"{options.features}, snapshot {options.snapshot}",
            "images": f"{self._begin['train_images']:,} + {self._begin['val_images']:,} of val",
            "best epoch": f"{best['epoch']} of {self._begin['epochs']}: the bundle has its weights",
            **{f"{stop['phase']} stopped early": _reason(stop) for stop in best["early_stops"]},
            "val loss, next word": f"{best['val_loss']:.3f}, {best['val_accuracy']:.1%}",
            f"CIDEr, BLEU-4 ({options.writing.search})": f"{best['CIDEr']:.3f}, {best['Bleu_4']:.3f}",
            "time": clock(time.monotonic() - self._start),
            "checkpoints": options.checkpoints,
            "logs": options.logs,
        }


def stop_line(stop: Mapping[str, Any]) -> str:
    """Returns the line for a phase that ended early: one of epoch_history's ``early_stops``."""
    so_far = f"the best so far is epoch {stop['best']}, with {stop['CIDEr']:.3f}"
    return f"{stop['phase']} stopped early at epoch {stop['epoch']}, {_reason(stop)}; {so_far}"


def _reason(stop: Mapping[str, Any]) -> str:
    waited = "1 epoch" if stop["patience"] == 1 else f"{stop['patience']} epochs"
    return f"after {stop['after']} of {stop['planned']}: no better CIDEr for {waited}"


def epoch_line(entry: Mapping[str, Any], epochs: int, best: int) -> str:
    """Returns the line for a finished epoch of ``epochs``; ``best`` is the best so far, 0 the initial weights."""
    mark = " (best so far)" if best == entry["epoch"] else ""
    losses = f"val loss {entry['val_loss']:.3f}, next word {entry['val_accuracy']:.1%}"
    scores = f"{losses}, CIDEr {entry['CIDEr']:.3f}{mark}"
    if not entry["epoch"]:
        return f"before the first epoch of {epochs}: {scores}, {clock(entry['val_seconds'])} of validation"
    learned = f"loss {entry['train_loss']:.3f}"
    if "train_reward" in entry:
        learned = f"reward {entry['train_reward']:.3f} (baseline {entry['train_baseline']:.3f})"
    return (
        f"epoch {entry['epoch']} of {epochs}: {learned}, {scores}, {entry['images_per_second']:.1f} images/s, "
        f"{clock(entry['seconds'])} and {clock(entry['val_seconds'])} of validation"
    )
