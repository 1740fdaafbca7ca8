"""Tokenizers of whole words, seen at least ``min_count`` times: the classic captioning vocabulary.

``words``: lower case, split at Python's ``\\W+``, without punctuation.
``whitespace``: split at whitespace, with case and punctuation kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from captionbeam.capmodel.tokenizers.base import DEFAULT_MAX_LENGTH, SPECIALS, Tokenizer
from captionbeam.schemas.errors import RequestError

_WORD = re.compile(r"\w+")


def split_words(text: str) -> list[str]:
    """Returns the lower-cased words of ``text``: ``re.split(r"\\W+", text.lower())`` without empty strings.

    >>> split_words("A man's T-shirt.")
    ['a', 'man', 's', 't', 'shirt']
    """
    return _WORD.findall(text.lower())


class WordTokenizer(Tokenizer):
    """Word tokenizer; the vocabulary has the most frequent words first."""

    kind = "words"

    @classmethod
    def learn(
        cls,
        word_counts: Mapping[str, int],
        min_count: int = 5,
        style: str = "words",
        max_length: int = DEFAULT_MAX_LENGTH,
    ) -> WordTokenizer:
        """Learns the words counted ``min_count`` times or more. ``style``: ``words`` or ``whitespace``."""
        if min_count < 1:
            raise RequestError(f"a minimum count of {min_count} makes no sense; expected 1 or more")
        kept = (word for word, count in word_counts.items() if count >= min_count)
        words = sorted(kept, key=lambda word: (-word_counts[word], word))
        return WORD_STYLES[style]([*SPECIALS, *words], max_length, {"min_count": min_count})

    def words_of(self, text: str) -> list[str]:
        return split_words(text)

    def pieces_of(self, words: Sequence[str]) -> Iterable[str]:
        return words

    def join(self, pieces: Sequence[str]) -> str:
        return " ".join(pieces)


class WhitespaceTokenizer(WordTokenizer):
    """Word tokenizer that splits at whitespace."""

    kind = "whitespace"

    def words_of(self, text: str) -> list[str]:
        return text.split()


WORD_STYLES: dict[str, type[WordTokenizer]] = {"words": WordTokenizer, "whitespace": WhitespaceTokenizer}
