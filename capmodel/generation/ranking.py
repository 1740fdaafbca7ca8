"""Which captions of an image are its best: the length penalty, groups of beams, and when a search may end.

Shapes: B images, K captions an image, in groups side by side.
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
    """Captions are ranked by log-probability / penalty (of their length); without one, by log-probability."""

    n_best: int = 1
    groups: int = 1
    power: float = 0.0
    formula: str = "length"

    @classmethod
    def of(cls, options: DecodeOptions) -> Ranking:
        """What ``options`` ask for; penalty and groups are beam search's."""
        if options.method != "beam":
            return cls(options.n_best)
        return cls(options.n_best, options.beam_groups, options.length_penalty, options.length_formula)

    def ranks(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """``scores``, sums of log-probabilities of ``lengths`` tokens, as they are compared."""
        return scores / PENALTIES[self.formula](lengths) ** self.power if self.power else scores

    def done(self, scores: Tensor, lengths: Tensor, finished: Tensor, longest: int) -> Tensor:
        """``[B, 1]``: whether an image's ``n_best`` captions are finished, and no running one can pass them.

        A running caption's sum can only fall: its rank is at best that of its sum at the ``longest`` length. With
        groups this has to hold in each.
        """
        best = self.ranks(scores, torch.where(finished, lengths, longest))
        groups = min(self.groups, scores.shape[1])  # under a prefix there is one caption, and no group yet
        best, finished = (part.unflatten(1, (groups, -1)) for part in (best, finished))
        first = best.topk(min(self.n_best, best.shape[-1])).indices
        return finished.gather(-1, first).flatten(1).all(1, keepdim=True)

    def pick(self, order: Sequence[int], caption: Callable[[int], bytes], each: int) -> list[int]:
        """The ``n_best`` of ``order``: the places of an image's captions from best to worst, ``each`` in a group.

        With groups each gives its best before any gives its second best, and what two of them found is taken once.
        """
        if self.groups == 1:
            return list(order[: self.n_best])
        taken: dict[bytes, int] = {}
        for place in _in_rounds(order, each):
            taken.setdefault(caption(place), place)
        chosen = set(list(taken.values())[: self.n_best])
        return [place for place in order if place in chosen]


def _in_rounds(order: Sequence[int], each: int) -> list[int]:
    """``order`` such that the best places of all groups of ``each`` come first, then the second best of all."""
    counts: Counter[int] = Counter()
    turns = {}
    for place in order:
        turns[place] = counts[place // each]
        counts[place // each] += 1
    return sorted(order, key=turns.__getitem__)
