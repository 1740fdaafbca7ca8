"""Learns a tokenizer of any kind, for jobs that take the kind as an option."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from captionbeam.capmodel.tokenizers import bpe, words
from captionbeam.capmodel.tokenizers.base import DEFAULT_MAX_LENGTH, Tokenizer
from captionbeam.capmodel.tokenizers.folder import check_kind

_SPLITTERS: dict[str, Callable[[str], list[str]]] = {
    "bpe": bpe.split_words,
    "words": words.split_words,
    "whitespace": str.split,
}


def splitter(kind: str) -> Callable[[str], list[str]]:
    """Returns the function that splits text into words for learning a tokenizer of ``kind``."""
    return _SPLITTERS[check_kind(kind)]


def learn_tokenizer(
    kind: str,
    word_counts: Mapping[str, int],
    *,
    merges: int = 4000,
    min_count: int = 5,
    max_length: int = DEFAULT_MAX_LENGTH,
) -> Tokenizer:
    """Learns a tokenizer of ``kind`` from word -> count; ``merges`` is for ``bpe``, ``min_count`` for the others."""
    if check_kind(kind) == "bpe":
        return bpe.BpeTokenizer.learn(word_counts, merges, max_length)
    return words.WordTokenizer.learn(word_counts, min_count, kind, max_length)
