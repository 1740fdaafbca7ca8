"""Byte pair encoding by subword-nmt (Sennrich, Haddow, Birch 2016): frequent words whole, rare ones in pieces.

Text becomes words as follows: Unicode NFC, lower case, straight quotes; then every punctuation or symbol character is
a separate word, as in the Penn Treebank, except within a word: an apostrophe or hyphen between letters (``man's``,
``t-shirt``) and ``.`` ``,`` ``:`` between digits (``3.5``, ``10:30``) stay. So ``"A man's dog."`` becomes
``a man's dog .``. ``@`` and ``<`` are never part of a longer word, so subword-nmt's marks ``@@`` (the word continues)
and ``</w>`` (the word ends) are unambiguous.

Every known character has two tokens, one within and one at the end of a word, so any text over the learned alphabet
is encoded and decoded exactly.
"""

from __future__ import annotations

import contextlib
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import regex
from subword_nmt.apply_bpe import BPE
from subword_nmt.learn_bpe import learn_bpe

from captionbeam.capmodel.tokenizers.base import DEFAULT_MAX_LENGTH, SPECIALS, Tokenizer
from captionbeam.schemas.errors import RequestError

CONTINUES, ENDS = "@@", "</w>"
VERSION_LINE = "#version: 0.2"
CACHED_WORDS = 1_000_000

_LETTERS = r"[^ \p{P}\p{S}]"
_WORD = regex.compile(
    rf"{_LETTERS}+(?:['-]{_LETTERS}+|(?<=\p{{N}})[.,:](?=\p{{N}}){_LETTERS}+)*|[\p{{P}}\p{{S}}]"
)
_STRAIGHT_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


def split_words(text: str) -> list[str]:
    """Returns the words of ``text``, lower-cased, with punctuation as separate words.

    >>> split_words("A man's T-shirt, 3.5 ft!")
    ['a', "man's", 't-shirt', ',', '3.5', 'ft', '!']
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    return _WORD.findall(" ".join(text.translate(_STRAIGHT_QUOTES).split()))


class BpeTokenizer(Tokenizer):
    """Byte pair tokenizer. ``codes`` is the text of a subword-nmt codes file."""

    kind = "bpe"

    def __init__(
        self,
        vocab: Sequence[str],
        codes: str,
        max_length: int = DEFAULT_MAX_LENGTH,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(vocab, max_length, options)
        self.codes = codes
        # subword-nmt exits the interpreter on a codes file without merges
        self._bpe = BPE(io.StringIO(codes)) if parse_merges(codes) else None

    @classmethod
    def learn(
        cls, word_counts: Mapping[str, int], merges: int = 4000, max_length: int = DEFAULT_MAX_LENGTH
    ) -> BpeTokenizer:
        """Learns up to ``merges`` merges (of pairs seen at least twice) from word -> count.

        The result depends on the counts only, not on their order. Raises RequestError.
        """
        if merges < 0:
            raise RequestError(f"{merges} merges cannot be learned; expected 0 or more")
        for word in word_counts:
            if split_words(word) != [word]:
                raise RequestError(f"{word!r} is not one word; expected the counts of split_words")
        codes = _learn_codes(word_counts, merges)
        alphabet = sorted({character for word in word_counts for character in word})
        return cls(_vocabulary(alphabet, parse_merges(codes)), codes, max_length, {"merges": merges})

    def words_of(self, text: str) -> list[str]:
        return split_words(text)

    def pieces_of(self, words: Sequence[str]) -> Iterable[str]:
        if self._bpe is None:
            return (piece for word in words for piece in (*(c + CONTINUES for c in word[:-1]), word[-1]))
        if len(self._bpe.cache) > CACHED_WORDS:
            self._bpe.cache.clear()
        return self._bpe.segment_tokens(words)

    def join(self, pieces: Sequence[str]) -> str:
        continues = [len(piece) > len(CONTINUES) and piece.endswith(CONTINUES) for piece in pieces]
        parts = zip(pieces, continues, strict=True)
        return "".join(p.removesuffix(CONTINUES) if more else p + " " for p, more in parts).rstrip(" ")

    def contents(self) -> dict[str, bytes]:
        return {**super().contents(), "codes.bpe": self.codes.encode()}


def parse_merges(codes: str) -> list[tuple[str, str]]:
    """Returns the merges of a codes file, in order. Raises RequestError for other formats than subword-nmt 0.2."""
    first, *lines = codes.removesuffix("\n").split("\n")
    if first != VERSION_LINE:
        raise RequestError(f"the byte pair codes begin with {first[:40]!r}; expected {VERSION_LINE!r}")
    pairs = [tuple(line.split(" ")) for line in lines]
    for number, pair in enumerate(pairs, start=2):
        if len(pair) != 2 or not all(pair):
            raise RequestError(
                f"line {number} of the byte pair codes is {' '.join(pair)!r}; expected two symbols"
            )
    return pairs  # type: ignore[return-value]


def _learn_codes(word_counts: Mapping[str, int], merges: int) -> str:
    if merges == 0 or all(len(word) == 1 for word in word_counts):
        return VERSION_LINE + "\n"
    lines = "".join(f"{word} {count}\n" for word, count in sorted(word_counts.items()))
    codes = io.StringIO()
    # learn_bpe draws a progress bar on stderr
    with contextlib.redirect_stderr(io.StringIO()):
        learn_bpe(io.StringIO(lines), codes, merges, is_dict=True)
    return codes.getvalue()


def _vocabulary(alphabet: Sequence[str], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Returns the specials, each character's two forms, then the result of each merge, in the order learned."""
    characters = [form for character in alphabet for form in (character, character + CONTINUES)]
    merged = (first + second for first, second in merges)
    made = [symbol.removesuffix(ENDS) if symbol.endswith(ENDS) else symbol + CONTINUES for symbol in merged]
    return [*SPECIALS, *dict.fromkeys([*characters, *made])]
