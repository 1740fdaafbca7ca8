"""The order of images in an epoch, and their distribution over ranks.

The order is a pure function of (seed, epoch, number of images per step) and does not depend on the number of ranks:
two ranks with a batch of B see, step by step, the images that one rank with a batch of 2B sees.

Row groups are put in random order. The images of the group at place p are spread at random over the interval
[p + 1/2 - mix/2, p + 1/2 + mix/2] of the epoch, clipped at its ends. So at most ``mix`` groups are open at any time,
every step draws about evenly from all of them, and each image occurs exactly once per epoch. An epoch of N images has
ceil(N / batch) steps whose sizes differ by at most one: no remainder is dropped, repeated or left in a small last
step. A step is sorted by the open groups' slots and divided among ranks in equal runs (which also differ by at most
one), so each group is read by one rank, except groups at a border, which two ranks read.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def shuffled_steps(
    group: np.ndarray, batch: int, mix: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> list[np.ndarray]:
    """Returns for each step of ``epoch`` the indexes of the samples of ``rank`` of ``world``.

    ``group`` [N]: the row group of each sample; ``batch``: images per step over all ranks; ``mix``: groups open at
    once, over all ranks. Every rank gets the same number of steps; a rank's part may be empty.
    """
    order, slot = shuffled(group, mix, seed, epoch)
    steps = even_parts(order, -(-len(order) // batch))
    sorted_steps = (step[np.argsort(slot[step], kind="stable")] for step in steps)
    return [even_parts(step, world)[rank] for step in sorted_steps]


def shuffled(group: np.ndarray, mix: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the samples in the order of ``epoch``, and the slot (0..mix-1) of each sample's group, both [N]."""
    rng = np.random.default_rng([seed, epoch])
    present, which, counts = np.unique(group, return_inverse=True, return_counts=True)
    place = rng.permutation(len(present))
    start = np.maximum(0, place + 0.5 - mix / 2)
    end = np.minimum(len(present), place + 0.5 + mix / 2)
    turn = (_random_ranks(which, counts, rng) + rng.random(len(which))) / counts[which]
    moment = start[which] + (end - start)[which] * turn
    return np.argsort(moment, kind="stable"), place[which] % mix


def sequential_steps(count: int, batch: int, rank: int = 0, world: int = 1) -> list[np.ndarray]:
    """Returns steps over samples 0..count-1 in order: a contiguous block per rank, equally many steps on every rank.

    ``batch``: images per step over all ranks.
    """
    own = even_parts(np.arange(count), world)[rank]
    return even_parts(own, -(-count // batch))


def even_parts(values: np.ndarray, parts: int) -> list[np.ndarray]:
    """Splits ``values`` into ``parts`` runs whose lengths differ by at most one."""
    cuts = np.arange(parts + 1) * len(values) // parts
    return [values[start:end] for start, end in pairwise(cuts)]


def _random_ranks(which: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns for each sample a random rank within its group: 0..count-1, each once."""
    by_group = np.lexsort((rng.random(len(which)), which))
    ranks = np.empty(len(which), dtype=np.int64)
    ranks[by_group] = np.arange(len(which)) - (np.cumsum(counts) - counts)[which[by_group]]
    return ranks
