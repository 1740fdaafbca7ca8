"""BLEU-1 to BLEU-4 over a corpus (Papineni et al. 2002), as coco-caption computes it.

n-gram counts are clipped at the maximum over the references. The brevity penalty uses for each caption the reference
of the closest length (the shorter of two). The constants against division by zero are the published code's. Counts
are exact integers that can be compared with that code's output.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ORDERS = 4
_SMALL, _TINY = 1e-9, 1e-15

Ngrams = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class BleuCounts:
    """The counts of BLEU: words of captions and of their closest references, n-grams generated and correct."""

    testlen: int
    reflen: int
    guess: tuple[int, ...]
    correct: tuple[int, ...]


def ngrams(words: Sequence[str]) -> Ngrams:
    """Returns the number of occurrences of each n-gram of one to four words."""
    counts: Ngrams = Counter()
    for order in range(1, ORDERS + 1):
        counts.update(zip(*(words[start:] for start in range(order)), strict=False))
    return counts


def count_image(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> BleuCounts:
    """Returns the counts of one caption against its references, all as words."""
    most: Ngrams = Counter()
    for reference in references:
        most |= ngrams(reference)
    correct = [0] * ORDERS
    for ngram, count in ngrams(hypothesis).items():
        correct[len(ngram) - 1] += min(count, most[ngram])
    length = len(hypothesis)
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    guess = tuple(max(0, length - order) for order in range(ORDERS))
    return BleuCounts(length, closest, guess, tuple(correct))


def add_counts(images: Iterable[BleuCounts]) -> BleuCounts:
    """Returns the counts of a corpus."""
    rows = [(one.testlen, one.reflen, *one.guess, *one.correct) for one in images]
    testlen, reflen, *rest = [sum(column) for column in zip(*rows, strict=True)]
    return BleuCounts(testlen, reflen, tuple(rest[:ORDERS]), tuple(rest[ORDERS:]))


def bleu(counts: BleuCounts) -> list[float]:
    """Returns BLEU-1 to BLEU-4: the geometric mean of the precisions times the brevity penalty."""
    ratio = (counts.testlen + _TINY) / (counts.reflen + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for order, (correct, guess) in enumerate(zip(counts.correct, counts.guess, strict=True), start=1):
        product *= (correct + _TINY) / (guess + _SMALL)
        scores.append(product ** (1 / order) * penalty)
    return scores
