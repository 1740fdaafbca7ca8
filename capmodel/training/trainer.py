"""The training loop that torchrun's processes run together.

The loss of a step is the sum over all its words on all ranks, divided by their number. DDP averages gradients, so each
rank's sum is multiplied by the number of ranks and divided by the number of words of all ranks. A step on two ranks
therefore equals a step on one rank with twice the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from itertools import islice
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import nn

from captionbeam.capmodel.data.dataset import Data
from captionbeam.capmodel.data.epochs import Epochs
from captionbeam.capmodel.data.loader import Batch
from captionbeam.capmodel.data.pairing import identity_of
from captionbeam.capmodel.decoders import DecoderConfig, make_decoder
from captionbeam.capmodel.objectives.objective import LossModule, Objective, TrainingBatch
from captionbeam.capmodel.runtime.device import autocast, resolve_precision
from captionbeam.capmodel.runtime.distributed import Distributed
from captionbeam.capmodel.training.checkpoints import Checkpoints, Position
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.capmodel.training.epoch_history import best_epoch, early_stops
from captionbeam.capmodel.training.evaluator import Validation
from captionbeam.capmodel.training.optimizer import (
    ModelOptimizer,
    freeze_word_vectors,
    learning_rate,
    load_parameters,
    load_word_vectors,
    parameters_of,
)
from captionbeam.capmodel.training.phases import Phase, phases_of
from captionbeam.capmodel.training.progress import EventWriter, RunProgress
from captionbeam.capmodel.training.warm_start import check_start, identity_of_start, weights_of
from captionbeam.schemas.errors import SystemicError


class Stopped(Exception):
    """Raised when the run was asked to stop; ``position`` is in its checkpoint."""

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.position = position


class Trainer:
    """One rank's part of a run. ``wants_stop`` returns whether this process was asked to stop."""

    def __init__(
        self,
        options: TrainOptions,
        data: Data,
        dist: Distributed,
        wants_stop: Callable[[], bool],
        events: EventWriter,
    ) -> None:
        self.options, self.data, self.dist, self.wants_stop = options, data, dist, wants_stop
        self.precision = dist.from_main(lambda: resolve_precision(options.precision, str(dist.device)))
        torch.manual_seed(options.seed)
        self.decoder = make_decoder(DecoderConfig.fit(options, data.store.shape, data.tokenizer)).to(
            dist.device
        )
        self.vectors = dist.from_main(lambda: data.word_vectors(options))
        if self.vectors:
            load_word_vectors(self.vectors, self.decoder.embed)
        self.model: nn.Module = LossModule(self.decoder)
        self.phases = phases_of(options, data)
        self.optimizer = ModelOptimizer(self.decoder, options)
        if self.vectors and options.freeze_embeddings:
            freeze_word_vectors(self.vectors, self.decoder.embed, self.optimizer.adam)
        self.epochs = Epochs(options, data.train, dist.rank, dist.world_size)
        self.log = RunProgress(self.epochs, self.phases, events)
        self.checkpoints = Checkpoints(options.checkpoints, self.identity())
        self.saved = time.monotonic()

    def identity(self) -> dict[str, Any]:
        """Returns everything that determines the result, up to rounding."""
        start, steps = identity_of_start(self.options.init), self.options.step_identity(self.dist.world_size)
        own = {"precision": self.precision, "embeddings": self.vectors and self.vectors.sha256}
        return {
            **self.options.identity(),
            **identity_of(self.data.store, self.data.table),
            **start,
            **steps,
            **own,
        }

    def run(self) -> Position:
        """Trains to the end; ``decoder`` then has the best epoch's parameters. Raises Stopped."""
        position = self._resume()
        self.model = self.dist.wrap(self.model)
        self.log.begin(position, **self._facts())
        self.saved = time.monotonic()
        if self.options.init and not position.history and not position.step:
            position = self._end_epoch(position)  # the initial weights' score; they may remain the best
        while (position := self._enter_phase(position)).phase < len(self.phases):
            position = self._end_epoch(self._train_epoch(position))
        return position

    def _enter_phase(self, position: Position) -> Position:
        """Moves ``position`` past finished phases: loads the best weights and resets the optimizer."""
        while position.phase < len(self.phases) and self._phase(position).is_over(position):
            load_parameters(self.decoder, self.dist.from_main(self.checkpoints.load_best))
            self.optimizer.restart()
            for stop in early_stops(position.history, self.options):
                if stop["phase"] == self._phase(position).name:
                    self.log.early_stop(stop)
            position = position.next_phase(self.log.steps(position), self.log.images(position))
        return position

    def _phase(self, position: Position) -> Phase:
        return self.phases[position.phase]

    def _resume(self) -> Position:
        if self.options.restart:
            self.dist.from_main(self.checkpoints.clear)
        found = self.dist.from_main(self.checkpoints.load)
        if found is not None:
            self.optimizer.load(found[1])
            return found[0]
        if (url := self.options.init) is not None:
            check_start(url, self.data.store.fingerprint, self.data.tokenizer, self.decoder.config)
            load_parameters(self.decoder, self.dist.from_main(lambda: weights_of(url)))
            self.optimizer.restart()
        return Position()

    def _facts(self) -> dict[str, Any]:
        return {
            "epochs": self.options.all_epochs,
            "train_images": len(self.data.samples["train"]),
            "val_images": len(self.validation.reader.samples),
            "workers": self.dist.world_size,
            "device": str(self.dist.device),
            "precision": self.precision,
            "vectors": self.vectors and (len(self.vectors.ids), self.vectors.asked),
            "parameters": sum(value.numel() for value in self.decoder.parameters()),
        }

    def _train_epoch(self, position: Position) -> Position:
        """Runs the remaining steps of an epoch."""
        each, place = self.options.accumulate, (position.epoch, position.age, position.first_image)
        parts = self.epochs.parts(*place)[position.step * each :]
        self.model.train()
        samples, captions = [part.samples for part in parts], [part.captions for part in parts]
        with closing(self.data.train.batches(samples, captions)) as batches:
            while step := list(islice(batches, each)):
                position = self._step(step, position)
                if time.monotonic() - self.saved > 60 * self.options.checkpoint_minutes:
                    self._save_checkpoint(position)
        return position

    def _step(self, batches: Sequence[Batch], position: Position) -> Position:
        """Runs one optimizer step, together with all ranks."""
        torch.manual_seed(self._step_seed(position, self.dist.rank))
        parts = [self._prepare(batch, position) for batch in batches]
        words = self._total_words(position, sum(prepared.words for prepared in parts))
        losses = self._backward(self._phase(position).objective, parts, self.dist.world_size / words)
        rate = self._update_weights(position)
        names = [*parts[0].measures]
        own = [sum(prepared.measures[name] for prepared in parts) for name in names]
        total, images, *sums = self.dist.all_sum(sum(losses), sum(len(batch.rows) for batch in batches), *own)
        if not isfinite(total):
            place = f"step {position.step + 1} of epoch {position.epoch + 1}"
            raise SystemicError(f"the loss is {total} at {place}; expected a number: lower the learning rate")
        measured = dict(zip(names, sums, strict=True))
        means = {name: value / images for name, value in measured.items()}
        after = position.advanced(total, words, int(images), measured)
        return self.log.step(after, {"loss": total / words, **means, "learning_rate": rate})

    def _backward(self, objective: Objective, parts: Sequence[TrainingBatch], scale: float) -> list[float]:
        """Returns the losses of the parts; accumulates gradients times ``scale``, averaged in the last pass."""

        def cost(prepared: TrainingBatch) -> float:
            with autocast(self.dist.device, self.precision):
                loss = self.model(objective, prepared)
            (loss * (scale if prepared.words else 0.0)).backward()
            return loss.item() if prepared.words else 0.0

        with self.dist.no_sync(self.model):
            before = [cost(prepared) for prepared in parts[:-1]]
        return [*before, cost(parts[-1])]

    def _total_words(self, position: Position, own: int) -> int:
        """Returns the words of this step on all ranks; raises Stopped on all ranks if one was asked to stop."""
        words, stopping = self.dist.all_sum(own, self.wants_stop())
        if stopping:
            self._save_checkpoint(position)
            raise Stopped(position)
        return int(words)

    def _step_seed(self, position: Position, *rank: int) -> int:
        """Returns the random seed of this step, for one ``rank`` or for all."""
        parts = (self.options.seed, position.epoch, position.step, *rank)
        return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)

    def _prepare(self, batch: Batch, position: Position) -> TrainingBatch:
        objective = self._phase(position).objective
        with torch.no_grad(), autocast(self.dist.device, self.precision):
            return objective.prepare(self.decoder, batch, self.dist.device, self._step_seed(position))

    def _update_weights(self, position: Position) -> float:
        """Applies the gradients; returns the learning rate."""
        phase, taken = self._phase(position), self.log.steps(position) - position.first_step
        steps = self.epochs.steps_until(phase.epochs)
        rate = learning_rate(taken, steps, phase.learning_rate, phase.warmup, self.options.schedule)
        self.optimizer.step(rate, taken)
        return rate

    def _end_epoch(self, position: Position) -> Position:
        """Ends an epoch: computes scores, saves the best parameters and a checkpoint."""
        with self.optimizer.averaged():
            scores = self.validation.scores(self.decoder, lambda: self.dist.all_sum(self.wants_stop())[0] > 0)
            after = position if scores is None else self._record_epoch(position, scores)
        self._save_checkpoint(after)
        if scores is None:
            raise Stopped(position)
        self.log.epoch(after)
        return after

    def _record_epoch(self, position: Position, scores: Mapping[str, float]) -> Position:
        """Returns the start of the next epoch; saves the weights if they are the best so far."""
        history = (*position.history, self.log.entry(position, scores))
        after = position.next_epoch(history) if position.words else replace(position, history=history)
        if self.dist.is_main:
            self._save_weights(after, history[-1] is best_epoch(history))
        return after

    @cached_property
    def validation(self) -> Validation:
        """The validation on the val split."""
        return Validation.of(self.options, self.data, self.dist, self.precision)

    def _save_weights(self, position: Position, best: bool) -> None:
        parameters = parameters_of(self.decoder)
        if best:
            self.checkpoints.save_best(parameters)
        if self.options.keep_epochs:
            self.checkpoints.save_epoch(position.epoch, parameters)

    def _save_checkpoint(self, position: Position) -> None:
        """Writes a checkpoint, on the first rank."""
        if self.dist.is_main:
            self.checkpoints.save(position, self.optimizer.state())
        self.saved = time.monotonic()
