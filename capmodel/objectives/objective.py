"""The interface of training objectives. Losses are sums: the trainer divides by the words of all ranks.

An objective has two steps, so that the number of words of a whole step is known before the backward pass. ``prepare``
prepares training targets from a batch (human captions, or captions sampled from the decoder). ``loss`` computes
their loss inside the forward pass that DDP wraps.

Shapes: B images, N captions per image, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from captionbeam.capmodel.data.loader import Batch
from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.tokenizers import PAD


class TrainingBatch(NamedTuple):
    """One rank's part of a training step, on its device.

    ``features`` [B, ...]: the decoder's input. ``inputs`` and ``targets`` int64 [B, N, T]: words read and words to
    predict, PAD where there are none. ``words``: the number of words the loss is summed over; 0 if there are no images
    (a blank image replaces them). ``extra``: further data of the objective. ``measures``: values to report, by name,
    each summed over the images. Every rank has the same names.
    """

    features: Tensor
    inputs: Tensor
    targets: Tensor
    words: int
    extra: Any = None
    measures: Mapping[str, float] = {}


class Objective(Protocol):
    """A training objective. Random draws use torch's global generator, which is seeded for every step and rank."""

    def prepare(self, decoder: Decoder, batch: Batch, device: torch.device, seed: int) -> TrainingBatch:
        """Prepares training targets from ``batch``, without gradients.

        ``seed`` belongs to the step and is the same on every rank; it is for draws that are tied to an image.
        """

    def loss(self, decoder: Decoder, prepared: TrainingBatch) -> Tensor:
        """Returns the loss (float32) summed over its words."""


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the next word of human captions.

    ``weights``: per-caption loss weights, float32 [rows of the token table, captions of an image]; None: all 1.
    """

    label_smoothing: float = 0.0
    weights: np.ndarray | None = None

    def prepare(self, decoder: Decoder, batch: Batch, device: torch.device, seed: int) -> TrainingBatch:
        """Returns the batch itself; ``extra`` is its caption weights, float32 [B, N], or None."""
        tokens = batch.tokens.to(device)
        targets = tokens[..., 1:]
        words = int((targets != PAD).sum()) if len(batch.rows) else 0
        weights = None if self.weights is None else self._weights_of(self.weights, batch).to(device)
        return TrainingBatch(batch.features.to(device), tokens[..., :-1], targets, words, extra=weights)

    @staticmethod
    def _weights_of(weights: np.ndarray, batch: Batch) -> Tensor:
        if not len(batch.rows):
            return torch.ones(batch.tokens.shape[:2])
        rows = weights[batch.rows]
        if batch.captions is not None:
            rows = np.take_along_axis(rows, np.maximum(batch.captions, 0), axis=1)
        return torch.from_numpy(rows[:, : batch.tokens.shape[1]].copy())

    def loss(self, decoder: Decoder, prepared: TrainingBatch) -> Tensor:
        """Returns the targets' negative log-likelihood plus the extra loss of the decoder's options."""
        return decoder.loss(
            prepared.features, prepared.inputs, prepared.targets, self.label_smoothing, prepared.extra
        )


@dataclass(frozen=True)
class Mixed:
    """``main``'s loss plus ``weight`` times the loss of ``beside`` on the same images, each summed over its own words.

    The word count and the reported measures are those of ``main``. Up to the scale this is the mixed objective of
    Paulus et al. 2018, "A Deep Reinforced Model for Abstractive Summarization", equation 16.
    """

    main: Objective
    beside: Objective
    weight: float

    def prepare(self, decoder: Decoder, batch: Batch, device: torch.device, seed: int) -> TrainingBatch:
        """Returns ``main``'s batch, with both batches in ``extra``."""
        both = [objective.prepare(decoder, batch, device, seed) for objective in (self.main, self.beside)]
        return both[0]._replace(extra=both)

    def loss(self, decoder: Decoder, prepared: TrainingBatch) -> Tensor:
        """Returns the sum of both losses, that of ``beside`` multiplied by ``weight``."""
        main, beside = prepared.extra
        return self.main.loss(decoder, main) + self.weight * self.beside.loss(decoder, beside)


class LossModule(nn.Module):
    """A decoder whose forward pass is the loss; DDP wraps it, so an objective can use all of the decoder."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, objective: Objective, prepared: TrainingBatch) -> Tensor:
        """Returns the loss of ``prepared``."""
        return objective.loss(self.decoder, prepared)
