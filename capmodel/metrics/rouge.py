"""ROUGE-L (Lin 2004) of one caption, as coco-caption computes it: beta 1.2, maximum precision and maximum recall.

The maxima over the references are separate, so they may come from different references.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

BETA = 1.2


def rouge_l(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Returns the ROUGE-L of a caption against its references, all as words."""
    caption = hypothesis or [""]  # the published code splits "" into one empty word
    common = [(longest_common_subsequence(caption, one or [""]), max(1, len(one))) for one in references]
    precision = max(length for length, _ in common) / len(caption)
    recall = max(length / words for length, words in common)
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence, by bit-parallel dynamic programming (Hyyro 2004).

    >>> longest_common_subsequence("a man rides a horse".split(), "the man on a brown horse".split())
    3
    """
    places: dict[str, int] = defaultdict(int)
    for at, word in enumerate(left):
        places[word] |= 1 << at
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        step = row & places.get(word, 0)
        row = ((row + step) | (row - step)) & full
    return len(left) - row.bit_count()
