"""Tokenizers from text to token ids and back: byte pair encoding or words. Does not import torch.

Example::

    counts = Counter(word for caption in captions for word in splitter("bpe")(caption))
    tokenizer = BpeTokenizer.learn(counts, merges=4000)
    tokenizer.save("tokens/tokenizer")
    load_tokenizer("tokens/tokenizer").encode("Two dogs.")
"""

from collections.abc import Callable, Mapping

from captionbeam.capmodel.tokenizers import bpe, words
from captionbeam.capmodel.tokenizers.base import DEFAULT_MAX_LENGTH, END, PAD, SPECIALS, START, UNK, Tokenizer
from captionbeam.capmodel.tokenizers.bpe import BpeTokenizer
from captionbeam.capmodel.tokenizers.folder import KINDS, check_kind, load_tokenizer, tokenizer_from_files
from captionbeam.capmodel.tokenizers.words import WordTokenizer

__all__ = [
    "END",
    "KINDS",
    "PAD",
    "SPECIALS",
    "START",
    "UNK",
    "BpeTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "learn_tokenizer",
    "load_tokenizer",
    "splitter",
    "tokenizer_from_files",
]

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
