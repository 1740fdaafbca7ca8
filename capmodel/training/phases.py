"""The phases of a run: sequences of epochs, each with its own objective and learning rate.

A phase starts from the best weights so far, with a new optimizer. The next phase depends on the position alone, so a
resumed run changes phases at the same epochs as an uninterrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from captionbeam.capmodel.data.dataset import Data
from captionbeam.capmodel.objectives.objective import CrossEntropy, Mixed, Objective
from captionbeam.capmodel.self_critical.objective import SelfCritical
from captionbeam.capmodel.self_critical.rewards import SplitReward, consensus_weights
from captionbeam.capmodel.training.checkpoints import Position
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.capmodel.training.epoch_history import CROSS_ENTROPY, SELF_CRITICAL, epochs_since_best


@dataclass(frozen=True)
class Phase:
    """``epochs`` epochs of one ``objective``.

    The maximum ``learning_rate`` is reached after the first ``warmup`` share of the phase's steps. With ``patience``,
    the phase ends after that many consecutive epochs that are not better than the phase's best (``best_epoch``).
    """

    name: str
    objective: Objective
    epochs: int
    learning_rate: float
    warmup: float
    patience: int | None = None

    def is_over(self, position: Position) -> bool:
        """Whether this phase is finished at ``position``, the beginning of an epoch."""
        own = [entry for entry in position.history if entry["epoch"] > position.first_epoch]
        stalled = self.patience is not None and epochs_since_best(own) >= self.patience
        return len(own) >= self.epochs or stalled


def phases_of(options: TrainOptions, data: Data) -> tuple[Phase, ...]:
    """Returns the phases of ``options``."""
    words = CrossEntropy(options.label_smoothing, _weights(options, data))
    rates = (options.learning_rate, options.warmup)
    first = Phase(CROSS_ENTROPY, words, options.epochs, *rates, options.patience)
    if not options.self_critical_epochs:
        return (first,)
    reward = SplitReward(data.table, data.samples["train"].row, data.tokenizer)
    drawn: Objective = SelfCritical(
        reward,
        samples=options.self_critical_samples,
        baseline=options.self_critical_baseline,
        temperature=options.self_critical_temperature,
        grid_dropout=options.self_critical_grid_dropout,
    )
    if options.self_critical_cross_entropy:
        drawn = Mixed(drawn, words, options.self_critical_cross_entropy)
    rates = (options.self_critical_learning_rate, options.warmup)
    return (first, Phase(SELF_CRITICAL, drawn, options.self_critical_epochs, *rates, options.patience))


def _weights(options: TrainOptions, data: Data) -> np.ndarray | None:
    """Returns the cross-entropy weight of each caption of the token table; None if all are equal."""
    if not options.consensus:
        return None
    rows = data.samples["train"].row
    captions = data.table.table["captions"].take(rows).to_pylist()
    found = consensus_weights(captions, data.tokenizer, options.consensus)
    weights = np.ones((len(data.table.table), found.shape[1]), np.float32)
    weights[rows] = found
    return weights
