"""Captions that the decoder draws of itself: what it would say, said at random.

Shapes: B images, K captions an image, T steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from capmodel.decoders.base import Decoder
from capmodel.generation.choices import draw, uniforms
from capmodel.generation.options import DecodeOptions
from capmodel.generation.ranking import Ranking
from capmodel.generation.rules import Rules
from capmodel.generation.walk import write, written

PLAIN = DecodeOptions(method="sample")  # at temperature 1, of all words: the decoder's own distribution


class DrawBesideBest:
    """K captions an image drawn word by word; where ``greedy``, one more that takes the likeliest."""

    def __init__(self, numbers: Tensor, greedy: bool) -> None:
        """``numbers`` ``[B, K, T]`` in [0, 1), as ``uniforms`` draws them."""
        self.numbers, self.greedy = numbers, greedy

    def __call__(
        self, logprobs: Tensor, scores: Tensor, lengths: Tensor, step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As capmodel.generation.walk.Choose."""
        images, samples, _ = self.numbers.shape
        rows = samples + self.greedy
        parents = (torch.arange(rows, device=scores.device) % scores.shape[1]).expand(images, rows)
        logprobs, scores = (part.expand(images, rows, *part.shape[2:]) for part in (logprobs, scores))
        tokens = draw(logprobs[:, :samples], self.numbers[..., step], PLAIN)
        if self.greedy:
            tokens = torch.cat([tokens, logprobs[:, samples:].argmax(-1)], dim=1)
        gained = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return parents, tokens, scores + gained


@torch.no_grad()
def draw_captions(
    decoder: Decoder, features: Tensor, names: Sequence[str], samples: int, seed: int, greedy: bool
) -> np.ndarray:
    """``[B, K, T]`` int64: ``samples`` captions of each image, the greedy one after them where wanted.

    A caption goes up to END, then PAD. One that reaches the decoder's maximum length has no END: what stands in
    its last place was not chosen. Sample i of an image depends on (seed, its name, i), not on its batch-mates.
    """
    config = decoder.config
    steps = config.max_length - 1
    numbers = torch.from_numpy(uniforms(seed, names, samples, steps)).to(features.device)
    first = torch.full((len(features), 1), config.start, device=features.device)
    rules = Rules(config, False, features.device)
    choose, rows = DrawBesideBest(numbers, greedy), samples + greedy
    tokens = written(write(decoder, decoder.begin(features), first, rules, choose, steps, Ranking(rows)))
    if tokens.shape[-1] == steps:
        tokens[..., -1] = config.pad
    return tokens


@contextmanager
def without_dropout(decoder: Decoder) -> Iterator[None]:
    """The decoder as it will be used, gradients and all."""
    was_training = decoder.training
    decoder.eval()
    try:
        yield
    finally:
        decoder.train(was_training)
