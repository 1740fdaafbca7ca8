"""Converts token ids to ids of the words that the published metrics use, for whole batches.

CIDEr uses the Penn Treebank words of a caption (``captionbeam.capmodel.metrics.ptb``), not a model's tokens: a token
may be a word, a piece of one, punctuation that is not counted, or two words (``cannot``). The words of a token, or of
the pieces of one word, are computed once and cached. Words are tokenized separately: where context matters (the full
stop of ``5 p.m.``), the result can differ from that of the whole line.

Shapes: M captions of T tokens; P counted tokens; U units: a token, or the pieces of a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from captionbeam.capmodel.metrics.ptb import split_tokens, tokenize
from captionbeam.capmodel.self_critical.rewards.ngrams import NONE
from captionbeam.capmodel.tokenizers import END, PAD, START, BpeTokenizer, Tokenizer
from captionbeam.capmodel.tokenizers.bpe import CONTINUES

CLOSING = "<end>"  # represents END among words; no word of a caption has this spelling


class CaptionReader:
    """Converts captions of one tokenizer and their references to the same word ids.

    ``count_end``: END is the last word of every caption that has one, and of every reference, as in
    self-critical.pytorch. Published CIDEr leaves it out. Training without it gives truncated captions, since nothing
    penalises "a man on a".
    """

    def __init__(self, tokenizer: Tokenizer, count_end: bool) -> None:
        self.tokenizer, self.count_end = tokenizer, count_end
        self._ids: dict[str, int] = {}
        self._joins = np.array([_joins(tokenizer, token) for token in tokenizer.vocab])
        self._units: dict[bytes, int] = {}  # the pieces of a word -> its unit, numbered after the vocabulary
        self._words: list[list[int]] = []
        self._flat = self._sizes = np.empty(0, np.int64)

    def references(self, captions: Iterable[Sequence[str]]) -> list[list[list[int]]]:
        """Returns the word ids of each image's captions, as text. Must be called before any tokens are read."""
        images = [list(texts) for texts in captions]
        lines = iter(tokenize([text for texts in images for text in texts]))
        closing = [CLOSING] if self.count_end else []
        read = [[self._intern([*split_tokens(next(lines)), *closing]) for _ in texts] for texts in images]
        self._learn([[token] for token in range(self.tokenizer.vocab_size)])
        return read

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Converts ``tokens`` int64 [M, T], closed by END or not, to word ids [M, T'], padded with NONE."""
        ended = tokens == END
        is_word = (np.cumsum(ended, axis=1) == 0) & (tokens != PAD) & (tokens != START)
        caption, place = np.nonzero(is_word)
        units, caption = self._gather(tokens[caption, place], caption)
        sizes = self._sizes[units]
        starts = (np.cumsum(self._sizes) - self._sizes)[units]
        flat = self._flat[np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())]
        return self._padded(flat, np.repeat(caption, sizes), ended.any(1))

    def _padded(self, words: np.ndarray, caption: np.ndarray, closed: np.ndarray) -> np.ndarray:
        lengths = np.bincount(caption, minlength=len(closed))
        table = np.full((len(closed), int(lengths.max(initial=0)) + self.count_end), NONE)
        table[caption, np.arange(len(words)) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = words
        if self.count_end:
            table[closed, lengths[closed]] = self._ids[CLOSING]
        return table

    def _gather(self, tokens: np.ndarray, caption: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Merges tokens [P] with their captions into units [U] with theirs: the pieces of a word become one."""
        continues = self._joins[tokens]
        if not continues.any():
            return tokens, caption
        last = np.append(caption[1:] != caption[:-1], True)
        ends = np.flatnonzero(~continues | last)
        starts = np.append(0, ends[:-1] + 1)
        units = tokens[starts]
        spelled = np.flatnonzero((ends > starts) | continues[starts])
        keys = [tokens[starts[at] : ends[at] + 1].tobytes() for at in spelled]
        if fresh := [key for key in dict.fromkeys(keys) if key not in self._units]:
            self._units |= {key: len(self._words) + number for number, key in enumerate(fresh)}
            self._learn([np.frombuffer(key, tokens.dtype).tolist() for key in fresh])
        units[spelled] = [self._units[key] for key in keys]
        return units, caption[ends]

    def _learn(self, units: Sequence[Sequence[int]]) -> None:
        """Tokenizes new units and numbers them after the existing ones."""
        self._words += [
            self._intern(split_tokens(tokenize([self.tokenizer.decode(ids)])[0])) for ids in units
        ]
        self._flat = np.array([word for words in self._words for word in words], np.int64)
        self._sizes = np.array([len(words) for words in self._words], np.int64)

    def _intern(self, words: Sequence[str]) -> list[int]:
        return [self._ids.setdefault(word, len(self._ids)) for word in words]


def _joins(tokenizer: Tokenizer, token: str) -> bool:
    """Whether the next piece continues the word of ``token``."""
    return isinstance(tokenizer, BpeTokenizer) and len(token) > len(CONTINUES) and token.endswith(CONTINUES)
