"""One process of a training run, started by torchrun: ``python -m ...training.worker OPTIONS_JSON``.

Reports JSON lines on standard output: training events, ``error`` and ``crash``. On standard input, ``stop`` asks for
a checkpoint and an end; end of file (the parent was killed) ends this process too, so that it is not orphaned.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Any, NoReturn

import torch

from captionbeam.capmodel import metrics
from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.data.dataset import Data
from captionbeam.capmodel.runtime.distributed import init_distributed, local_rank, local_world
from captionbeam.capmodel.runtime.platform import detect_platform
from captionbeam.capmodel.runtime.run_lock import exclusive_run
from captionbeam.capmodel.training.config import TrainOptions, cores
from captionbeam.capmodel.training.epoch_history import best_epoch, early_stops
from captionbeam.capmodel.training.progress import EventWriter
from captionbeam.capmodel.training.trainer import Stopped, Trainer
from captionbeam.schemas.errors import CaptionbeamError, SystemicError

SCORES = ("val_loss", "val_accuracy", *metrics.SCORES)

Report = Callable[[Mapping[str, Any]], None]


class StopRequest:
    """Set by SIGTERM, SIGINT or ``stop`` on standard input; read by the training loop."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def ask(self, *_: object) -> None:
        """Asks the run to stop after its step."""
        self._asked.set()

    def handle_signals(self) -> StopRequest:
        """Makes SIGTERM and SIGINT ask for a stop."""
        signal.signal(signal.SIGTERM, self.ask)
        signal.signal(signal.SIGINT, self.ask)
        return self

    def watch_stdin(self) -> None:
        """Makes ``stop`` on standard input ask for a stop, and its end of file exit the process."""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while line := sys.stdin.readline():
            if line.strip() == "stop":
                self.ask()
        os._exit(1)


def train(options: TrainOptions, stop: StopRequest, report: Report) -> None:
    """Trains and saves the bundle.

    ``report`` gets the first rank's events (capmodel.training.progress), and ``stopped`` on the first process of each
    machine. Raises RequestError, SystemicError.
    """
    torch.set_num_threads(options.threads or max(1, cores() // local_world()))
    with init_distributed(options.device) as dist, ExitStack() as stack:
        dist.from_main(lambda: stack.enter_context(exclusive_run(options.checkpoints)))
        events = stack.enter_context(EventWriter(options.logs, report, dist.is_main))
        data = Data.open(options)
        trainer = Trainer(options, data, dist, stop, events)
        try:
            position = trainer.run()
        except Stopped as stopped:
            if local_rank() == 0:  # the watcher on every machine needs it
                place = stopped.position
                report({"event": "stopped", "epoch": place.epoch, "step": place.step})
            return
        except torch.OutOfMemoryError as err:
            raise SystemicError(
                f"{options.batch_size} images do not fit {dist.device}; lower --batch-size"
            ) from err
        # No rank exits before the bundle is saved: a platform may end a job when its first process exits.
        encoded = dist.from_main(lambda: _saved(trainer, position.history))
        encoder = "with its encoder" if encoded else "without an encoder: for features only"
        stops = early_stops(position.history, options)
        events.emit("saved", encoder=encoder, early_stops=stops, **best_epoch(position.history))


def _saved(trainer: Trainer, history: Sequence[Mapping[str, Any]]) -> bool:
    """Saves the bundle and closes the checkpoints; returns whether the encoder is in it."""
    bundle = save_bundle(trainer, history)
    trainer.checkpoints.finish(bundle.sha256)
    return bundle.encoder_weights is not None


def save_bundle(trainer: Trainer, history: Sequence[Mapping[str, Any]]) -> Bundle:
    """Writes and returns the bundle of a finished run, with the best epoch's scores."""
    data, best = trainer.data, best_epoch(history)
    bundle = Bundle(
        decoder=trainer.decoder,
        tokenizer=data.tokenizer,
        features_fingerprint=data.store.fingerprint,
        encoder_spec=dict(data.store.spec),
        encoder_weights=data.encoder_weights(),
        components=data.components(),
        scores={name: value for name, value in best.items() if name in SCORES},
        history=list(history),
        trained_on={
            **detect_platform(),
            "workers": trainer.dist.world_size,
            "device": trainer.dist.device.type,
        },
        writing=asdict(trainer.options.writing.deciding()),
    )
    bundle.save(trainer.options.output)
    return bundle


def main(arguments: Sequence[str]) -> int:
    """The main function of a torchrun process. Returns the exit status."""
    sys.excepthook = report_crash
    stop = StopRequest()
    stop.handle_signals()
    stop.watch_stdin()
    try:
        train(TrainOptions.from_json(arguments[0]), stop, emit)
    except CaptionbeamError as err:
        emit({"event": "error", "message": str(err), "status": err.exit_status})
        return err.exit_status
    return 0


def report_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Reports an unexpected error as an event, and prints its traceback on standard error."""
    emit({"event": "crash", "message": f"{kind.__name__}: {error}"})
    sys.__excepthook__(kind, error, trace)


def emit(event: Mapping[str, Any]) -> None:
    """Writes one JSON line in a single write."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def exit_now(status: int) -> NoReturn:
    """Exits without the interpreter's teardown.

    A thread of gloo or autograd that returns to Python during teardown aborts the process ("terminate called without an
    active exception"), which would fail a run after its bundle is saved.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    exit_now(main(sys.argv[1:]))
