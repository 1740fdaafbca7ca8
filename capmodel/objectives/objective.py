"""What a step of training minimises. Sums, never means: the trainer divides by the words of all ranks.

An objective works in two moves, so that the number of words of a whole step is known before any gradient is.
First it makes a lesson of a batch: what the decoder is to be taught (captions that people wrote, or such as
it drew itself). Then it gives the lesson's loss, inside the forward pass that DDP wraps.

Shapes: B images, N captions an image, T steps.
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


class Lesson(NamedTuple):
    """One rank's part of a step, on its device.

    ``features`` [B, ...] as the decoder takes them; ``inputs`` and ``targets`` int64 [B, N, T]: the words read
    and those to be said next, PAD where none; ``words``: how many the loss is a sum over, 0 where there are no
    images (a blank one stands in for them). ``extra``: whatever else an objective needs to know; ``measures``:
    what is to be told of the step, by name, each a sum over the images. Every rank has the same names.
    """

    features: Tensor
    inputs: Tensor
    targets: Tensor
    words: int
    extra: Any = None
    measures: Mapping[str, float] = {}


class Objective(Protocol):
    """What is minimised. It draws from torch's own generator, which is seeded for every step and rank."""

    def lesson(self, decoder: Decoder, batch: Batch, device: torch.device, seed: int) -> Lesson:
        """What ``batch`` teaches. No gradients here.

        ``seed`` is that of the step, the same on every rank, for draws that belong to an image.
        """

    def loss(self, decoder: Decoder, lesson: Lesson) -> Tensor:
        """The loss (float32) summed over the lesson's words."""


@dataclass(frozen=True)
class CrossEntropy:
    """The next word of captions that people wrote.

    ``weights``: what each caption's loss is multiplied by, float32 [rows of the token table, captions of an image];
    None: all count alike.
    """

    label_smoothing: float = 0.0
    weights: np.ndarray | None = None

    def lesson(self, decoder: Decoder, batch: Batch, device: torch.device, seed: int) -> Lesson:
        """The batch itself; ``extra`` is its captions' weights, float32 [B, N], if there are any."""
        tokens = batch.tokens.to(device)
        targets = tokens[..., 1:]
        words = int((targets != PAD).sum()) if len(batch.rows) else 0
        weights = None if self.weights is None else self._weights_of(self.weights, batch).to(device)
        return Lesson(batch.features.to(device), tokens[..., :-1], targets, words, extra=weights)

    @staticmethod
    def _weights_of(weights: np.ndarray, batch: Batch) -> Tensor:
        if not len(batch.rows):
            return torch.ones(batch.tokens.shape[:2])
        rows = weights[batch.rows]
        if batch.captions is not None:
            rows = np.take_along_axis(rows, np.maximum(batch.captions, 0), axis=1)
        return torch.from_numpy(rows[:, : batch.tokens.shape[1]].copy())

    def loss(self, decoder: Decoder, lesson: Lesson) -> Tensor:
        """Negative log-likelihoods of the targets, and what the decoder's own options add."""
        return decoder.loss(
            lesson.features, lesson.inputs, lesson.targets, self.label_smoothing, lesson.extra
        )


@dataclass(frozen=True)
class Mixed:
    """``main``'s loss, and ``weight`` times that of ``beside``, of the same images: each summed over its own words.

    The words that the trainer divides by, and what is told of the step, are ``main``'s. A mixed objective of this kind
    is Paulus et al. 2018, "A Deep Reinforced Model for Abstractive Summarization", equation 16, up to the scale.
    """

    main: Objective
    beside: Objective
    weight: float

    def lesson(self, decoder: Decoder, batch: Batch, device: torch.device, seed: int) -> Lesson:
        """``main``'s, with both in ``extra``."""
        both = [objective.lesson(decoder, batch, device, seed) for objective in (self.main, self.beside)]
        return both[0]._replace(extra=both)

    def loss(self, decoder: Decoder, lesson: Lesson) -> Tensor:
        """The loss summed over both lessons' words, of those beside times ``weight``."""
        main, beside = lesson.extra
        return self.main.loss(decoder, main) + self.weight * self.beside.loss(decoder, beside)


class Taught(nn.Module):
    """What DDP wraps: a decoder whose forward pass is a loss, so that an objective may use all of it."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, objective: Objective, lesson: Lesson) -> Tensor:
        """The loss of ``lesson``."""
        return objective.loss(self.decoder, lesson)
