"""How the next words are chosen: the most likely continuations, or a random draw.

Shapes: B images, n captions per image before a step and K after it, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from captionbeam.capmodel.generation.constraints import NEVER
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.capmodel.generation.ranking import Ranking
from captionbeam.capmodel.generation.search import Selection, SelectTokens


class BeamSearch:
    """Beam search: keeps the K highest-ranked continuations of an image's captions.

    Finished captions stay in the beam. One beam is greedy search. With groups, the K / groups beams of each group
    compete only with each other, group by group: a word's log-probability is lowered by ``diversity`` for each caption
    of the previous groups that took the word in this step (Vijayakumar et al. 2018, algorithm 1, with Hamming
    diversity). Scores stay the model's own.
    """

    def __init__(self, beam: int, ranking: Ranking, diversity: float, pad: int) -> None:
        self.each, self.ranking, self.diversity, self.pad = beam // ranking.groups, ranking, diversity, pad

    def __call__(self, logprobs: Tensor, scores: Tensor, lengths: Tensor, step: int) -> Selection:
        if self.ranking.groups == 1:
            return self._best(logprobs, scores, lengths, logprobs)
        width = max(scores.shape[1] // self.ranking.groups, 1)
        taken = torch.zeros_like(logprobs[:, 0])
        groups: list[Selection] = []
        for group in range(self.ranking.groups):
            # all groups start from the one initial caption
            start = group * width if scores.shape[1] > 1 else 0
            logs, sums, counts = (part.narrow(1, start, width) for part in (logprobs, scores, lengths))
            toll = self.diversity * taken.unsqueeze(1)
            parents, tokens, best = self._best(logs, sums, counts, logs - toll)
            taken.scatter_add_(1, tokens, (best > NEVER).to(taken.dtype))
            taken[:, self.pad] = 0  # PAD continues finished captions and is not penalised
            groups.append((parents + start, tokens, best))
        parents, tokens, best = (torch.cat(parts, dim=1) for parts in zip(*groups, strict=True))
        return parents, tokens, best

    def _best(self, logprobs: Tensor, scores: Tensor, lengths: Tensor, chances: Tensor) -> Selection:
        """Returns the ``each`` best by ``chances``, which are ``logprobs`` minus the diversity penalty."""
        each = min(self.each, logprobs.shape[-1])
        gained, tokens = chances.topk(each, dim=-1)  # the best of each caption, then the best of those
        ranks = self.ranking.ranks(scores.unsqueeze(-1) + gained, lengths.unsqueeze(-1)).flatten(1)
        best, place = ranks.topk(min(self.each, ranks.shape[1]), dim=1)
        if self.diversity or self.ranking.power:
            gained = logprobs.gather(-1, tokens)
            best = (scores.unsqueeze(-1) + gained).flatten(1).gather(1, place)
        return place // each, tokens.flatten(1).gather(1, place), best


class ForcedPrefix:
    """Chooses the words of a prefix, one caption per image; ``then`` chooses the words after it."""

    def __init__(self, prefix: Sequence[int], then: SelectTokens) -> None:
        self.prefix, self.then = prefix, then

    def __call__(self, logprobs: Tensor, scores: Tensor, lengths: Tensor, step: int) -> Selection:
        if step >= len(self.prefix):
            return self.then(logprobs, scores, lengths, step - len(self.prefix))
        token = self.prefix[step]
        parents = torch.zeros_like(scores, dtype=torch.int64)
        return parents, torch.full_like(parents, token), scores + logprobs[..., token]


class Sampling:
    """Sampling: K captions per image, each continued with a randomly drawn word.

    Scores add up the model's own log-probabilities, before temperature, top-k and top-p.
    """

    def __init__(self, options: DecodeOptions, numbers: Tensor) -> None:
        """``numbers`` ``[B, K, steps]`` in [0, 1), from ``uniforms``."""
        self.options, self.numbers = options, numbers

    def __call__(self, logprobs: Tensor, scores: Tensor, lengths: Tensor, step: int) -> Selection:
        images, captions, _ = self.numbers.shape
        parents = torch.arange(captions, device=scores.device) % scores.shape[1]
        logprobs, scores = (part.expand(images, captions, *part.shape[2:]) for part in (logprobs, scores))
        tokens = draw(logprobs, self.numbers[..., step], self.options)
        gained = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return parents.expand(images, captions), tokens, scores + gained


def draw(logprobs: Tensor, numbers: Tensor, options: DecodeOptions) -> Tensor:
    """Draws one token id per row of ``logprobs`` ``[..., V]``: inverts the distribution at ``numbers`` ``[...]``."""
    values, ids = logprobs / options.divisor, None
    if options.top_k or options.top_p < 1:
        values, ids = values.topk(min(options.top_k or values.shape[-1], values.shape[-1]), dim=-1)
    chances = torch.softmax(values, dim=-1)
    if options.top_p < 1:
        chances = chances * (chances.cumsum(-1) - chances < options.top_p)
    heights = chances.cumsum(-1)
    top = heights[..., -1]
    at = torch.minimum(numbers * top, torch.nextafter(top, torch.zeros_like(top)))
    place = (heights <= at.unsqueeze(-1)).sum(-1)
    return place if ids is None else ids.gather(-1, place.unsqueeze(-1)).squeeze(-1)


def uniforms(seed: int, image_ids: Sequence[str], captions: int, steps: int) -> np.ndarray:
    """Returns ``[B, captions, steps]`` float32 in [0, 1): row (b, i) depends on (seed, image_ids[b], i) only.

    More captions or steps do not change the other numbers.
    """
    numbers = np.empty((len(image_ids), captions, steps), np.float32)
    for image, name in enumerate(image_ids):
        for caption in range(captions):
            digest = hashlib.sha256(f"{seed}/{caption}/{name}".encode()).digest()
            stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
            numbers[image, caption] = stream.random(steps, np.float32)
    return numbers
