"""In which order an epoch visits its images, and which rank reads which.

The order is a pure function of (seed, epoch, number of images a step): not of the number of ranks. Two ranks
with a batch of B see, step by step, the images that one rank with a batch of 2B sees.

Row groups are put in random order; the images of the group at place p are spread at random over the
stretch [p + 1/2 - mix/2, p + 1/2 + mix/2] of the epoch, cut off at its ends. So at most ``mix`` groups are
open at any moment, every step draws about evenly from all of them, and each image comes exactly once an
epoch. An epoch of N images has ceil(N / batch) steps whose sizes differ by at most one: no remainder is
dropped, repeated or left in a tiny last step. A step is dealt to ranks sorted by the open groups' slots, in
equal runs (again differing by at most one), so that a group is read by one rank, and only those on a border
by two.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def shuffled_steps(
    group: np.ndarray, batch: int, mix: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> list[np.ndarray]:
    """For each step of ``epoch`` the indexes of the samples that ``rank`` of ``world`` computes.

    ``group`` [N]: the row group of each sample; ``batch``: images a step over all ranks; ``mix``: groups open
    at once, over all ranks. Every rank gets the same number of steps; a rank's part may be empty.
    """
    order, slot = shuffled(group, mix, seed, epoch)
    steps = even_parts(order, -(-len(order) // batch))
    sorted_steps = (step[np.argsort(slot[step], kind="stable")] for step in steps)
    return [even_parts(step, world)[rank] for step in sorted_steps]


def shuffled(group: np.ndarray, mix: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples in the order of ``epoch``, and the slot (0..mix-1) of each sample's group, both [N]."""
    return _spread(group, mix, np.random.default_rng([seed, epoch]))


def sequential_steps(count: int, batch: int, rank: int = 0, world: int = 1) -> list[np.ndarray]:
    """Samples 0..count-1 in order, each rank a block of its own, the same number of steps on every rank.

    ``batch``: images a step over all ranks.
    """
    own = even_parts(np.arange(count), world)[rank]
    return even_parts(own, -(-count // batch))


def even_parts(values: np.ndarray, parts: int) -> list[np.ndarray]:
    """``values`` in ``parts`` runs whose lengths differ by at most one."""
    cuts = np.arange(parts + 1) * len(values) // parts
    return [values[start:end] for start, end in pairwise(cuts)]


def _spread(group: np.ndarray, mix: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The samples in the epoch's order, and the slot (0..mix-1) of each sample's group."""
    present, which, counts = np.unique(group, return_inverse=True, return_counts=True)
    place = rng.permutation(len(present))
    start = np.maximum(0, place + 0.5 - mix / 2)
    end = np.minimum(len(present), place + 0.5 + mix / 2)
    turn = (_random_ranks(which, counts, rng) + rng.random(len(which))) / counts[which]
    moment = start[which] + (end - start)[which] * turn
    return np.argsort(moment, kind="stable"), place[which] % mix


def _random_ranks(which: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each sample a random rank among those of its group: 0..count-1, each once."""
    by_group = np.lexsort((rng.random(len(which)), which))
    ranks = np.empty(len(which), dtype=np.int64)
    ranks[by_group] = np.arange(len(which)) - (np.cumsum(counts) - counts)[which[by_group]]
    return ranks
