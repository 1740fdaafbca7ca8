"""Variety of a set of captions: distinct captions, vocabulary and length."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from captionbeam.capmodel.metrics.ptb import tokenize


def variety(captions: Collection[str]) -> dict[str, Any]:
    """Returns counts of captions, distinct captions and distinct words, and words per caption, tokenized as for scores.

    >>> variety(["A dog runs.", "a dog runs"])
    {'captions': 2, 'distinct': 1, 'distinct_share': 0.5, 'mean_words': 3.0, 'vocabulary': 3}
    """
    tokens = tokenize(list(captions))
    distinct = len({tuple(words) for words in tokens})
    return {
        "captions": len(tokens),
        "distinct": distinct,
        "distinct_share": distinct / max(1, len(tokens)),
        "mean_words": sum(map(len, tokens)) / max(1, len(tokens)),
        "vocabulary": len({word for words in tokens for word in words}),
    }
