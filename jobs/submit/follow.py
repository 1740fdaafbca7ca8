"""Waits for a submitted job: its state comes from the platform, its progress from the checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from captionbeam.capmodel.bundles.contents import CONFIG, HISTORY, read_manifest
from captionbeam.capmodel.training.checkpoints import Checkpoints
from captionbeam.capmodel.training.epoch_history import best_epoch, early_stops
from captionbeam.jobs.submit.training_target import Job, Order, Phase, State, TrainingTarget
from captionbeam.jobs.ui.progress import clock
from captionbeam.jobs.ui.summary import print_table
from captionbeam.jobs.ui.terminal import say
from captionbeam.jobs.ui.training_view import epoch_line, stop_line
from captionbeam.schemas.errors import RequestError, SystemicError
from captionbeam.schemas.storage import files

PATIENCE = 20


def follow(target: TrainingTarget, job: Job, order: Order) -> int:
    """Waits until the job is over. Returns 0; raises SystemicError if it failed or left no bundle."""
    start, poll = time.monotonic(), order.flags.poll
    epochs = _EpochLines(order)
    shown = ""
    while (state := _state(target, job, order, poll)).phase in (Phase.WAITING, Phase.RUNNING):
        if state.message != shown:
            shown = state.message
            say(f"{job.id}: {shown}")
        epochs.print_new()
        time.sleep(poll)
    if state.phase is Phase.FAILED:
        raise SystemicError(
            f"{target.title} ended {job.id}: {state.message}; its log says why: {job.view} (the same command resumes "
            f"from {order.options.checkpoints})"
        )
    output = order.options.output
    if not files.exists(files.join(output, CONFIG)):
        raise SystemicError(
            f"{target.title} says that {job.id} is done, but {output} holds no bundle: {job.view}"
        )
    epochs.finish()
    _report(target, job, order, time.monotonic() - start)
    return 0


def _state(target: TrainingTarget, job: Job, order: Order, poll: float) -> State:
    """Returns the job's state; retries for a while if the platform does not answer. Raises SystemicError."""
    for left in reversed(range(PATIENCE)):
        try:
            return target.state(job, order)
        except SystemicError as err:
            if not left:
                raise
            say(f"{job.id}: {err}; asking again", to_error=True)
            time.sleep(poll)
    raise AssertionError("unreachable")


class _EpochLines:
    """Prints each epoch once."""

    def __init__(self, order: Order) -> None:
        self._options, self._printed = order.options, 0

    def print_new(self) -> None:
        """Prints new epochs of the newest checkpoint."""
        try:
            record = Checkpoints(self._options.checkpoints, {}).record()
        except (OSError, RequestError):  # a temporary storage error: retried at the next look
            return
        position = (record or {}).get("position") or {}
        self._print(position.get("history", []))

    def finish(self) -> None:
        """Prints the remaining epochs, from the bundle."""
        history = files.read_json(files.join(self._options.output, HISTORY))
        self._print(history)
        for stop in early_stops(history, self._options):
            say(stop_line(stop))

    def _print(self, history: Sequence[Mapping[str, Any]]) -> None:
        for count in range(self._printed, len(history)):
            best = best_epoch(history[: count + 1])
            say(epoch_line(history[count], self._options.all_epochs, best["epoch"]))
        self._printed = max(self._printed, len(history))


def _report(target: TrainingTarget, job: Job, order: Order, seconds: float) -> None:
    manifest, options = read_manifest(order.options.output), order.options
    scores = manifest.scores
    print_table(f"train: {options.output}", {
        "features": f"{options.features}, snapshot {options.snapshot}",
        "trained on": f"{target.title}, {job.id}: workers: {order.nodes * order.workers}",
        "val loss, next word": f"{scores['val_loss']:.3f}, {scores['val_accuracy']:.1%}",
        f"CIDEr, BLEU-4 ({options.writing.search})": f"{scores['CIDEr']:.3f}, {scores['Bleu_4']:.3f}",
        "waited": clock(seconds),
        "checkpoints": options.checkpoints,
    })  # fmt: skip
