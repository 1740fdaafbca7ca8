"""Ranking of an image's captions: the length penalty, groups of beams, and the end of a search.

Shapes: B images, K captions per image, ordered by group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captionbeam.capmodel.generation.options import DecodeOptions

PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "length": lambda lengths: lengths.float(),
    "gnmt": lambda lengths: (5 + lengths.float()) / 6,
}


@dataclass(frozen=True)
class Ranking:
    """Ranks captions by log-probability / length penalty, or by log-probability if there is no penalty."""

    n_best: int = 1
    groups: int = 1
    power: float = 0.0
    formula: str = "length"

    @classmethod
    def of(cls, options: DecodeOptions) -> Ranking:
        """Returns the ranking of ``options``; penalty and groups apply to beam search only."""
        if options.method != "beam":
            return cls(options.n_best)
        return cls(options.n_best, options.beam_groups, options.length_penalty, options.length_formula)

    def ranks(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Returns the ranks of ``scores``, sums of log-probabilities of ``lengths`` tokens."""
        return scores / PENALTIES[self.formula](lengths) ** self.power if self.power else scores

    def done(self, scores: Tensor, lengths: Tensor, finished: Tensor, longest: int) -> Tensor:
        """Returns ``[B, 1]``: whether an image's ``n_best`` captions are finished and no running one can pass them.

        A running caption's sum can only fall, so its best possible rank is that of its sum at the ``longest`` length.
        With groups, the condition must hold in each group.
        """
        best = self.ranks(scores, torch.where(finished, lengths, longest))
        groups = min(self.groups, scores.shape[1])  # during a prefix there is one caption, and no groups yet
        best, finished = (part.unflatten(1, (groups, -1)) for part in (best, finished))
        first = best.topk(min(self.n_best, best.shape[-1])).indices
        return finished.gather(-1, first).flatten(1).all(1, keepdim=True)

    def pick(self, order: Sequence[int], caption: Callable[[int], bytes], each: int) -> list[int]:
        """Returns the ``n_best`` of ``order``, an image's captions from best to worst, ``each`` per group.

        With groups, each group's best comes before any group's second best, and duplicates are returned once.
        """
        if self.groups == 1:
            return list(order[: self.n_best])
        taken: dict[bytes, int] = {}
        for place in _by_turns(order, each):
            taken.setdefault(caption(place), place)
        chosen = set(list(taken.values())[: self.n_best])
        return [place for place in order if place in chosen]


def _by_turns(order: Sequence[int], each: int) -> list[int]:
    """Reorders ``order`` by turns: the best of each group of ``each`` first, then the second best of each."""
    counts: Counter[int] = Counter()
    turns = {}
    for place in order:
        turns[place] = counts[place // each]
        counts[place // each] += 1
    return sorted(order, key=turns.__getitem__)
