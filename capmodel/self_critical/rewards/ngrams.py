"""Numbers the n-grams of word ids, in arrays.

Shapes: P words of a corpus, caption after caption; M captions of at most T words, padded with NONE.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from captionbeam.capmodel.metrics.bleu import ORDERS

NONE = -1


class NgramTable:
    """Numbers every n-gram of a corpus, n from 1 to 4: consecutively for each n, words first.

    An n-gram is looked up by the number of its first n - 1 words and its last word, in one sorted array per n, so keys
    fit in 64 bits for any vocabulary.
    """

    def __init__(self, words: np.ndarray, caption: np.ndarray) -> None:
        """``words`` int64 [P] must cover 0 to the highest; ``caption`` [P] is the caption of each word.

        ``occurrences`` [P, 4] has the number of the n-gram that begins at each word, NONE if there is none.
        """
        self.words = int(words.max(initial=-1)) + 1
        self._keys: list[np.ndarray] = []
        self.occurrences = np.full((len(words), ORDERS), NONE)
        self.occurrences[:, 0] = words
        first, size = 0, self.words
        for n in range(2, ORDERS + 1):
            whole = np.flatnonzero(caption[n - 1 :] == caption[: len(caption) - n + 1])
            prefix = self.occurrences[whole, n - 2] - first
            keys, which = np.unique(prefix * self.words + words[whole + n - 1], return_inverse=True)
            first, size = first + size, len(keys)
            self.occurrences[whole, n - 1] = first + which
            self._keys.append(keys)
        self.starts = np.cumsum([0, self.words, *map(len, self._keys)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def order(self, ngrams: np.ndarray) -> np.ndarray:
        """Returns n - 1 of each of these numbers."""
        return np.searchsorted(self.starts, ngrams, side="right") - 1

    def find(self, words: np.ndarray) -> Iterator[np.ndarray]:
        """Yields for each n the numbers of the n-grams at each position of ``words`` [M, T], as [M, T - n + 1].

        NONE for an n-gram that is not in the corpus or is incomplete.
        """
        word = np.where(words < self.words, words, NONE)
        found = word
        yield found
        for n, keys in enumerate(self._keys, start=2):
            prefix, last = found[:, :-1], word[:, n - 1 :]
            keyed = np.where((prefix >= 0) & (last >= 0), prefix * self.words + last, NONE)
            place = np.minimum(np.searchsorted(keys, keyed), len(keys) - 1)
            found = np.where(keys[place] == keyed, place, NONE) if len(keys) else np.full_like(keyed, NONE)
            yield np.where(found >= 0, found + self.starts[n - 1], NONE)


def count_repeats(words: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields for each n the count of each n-gram of ``words`` [M, T] in its caption, and a mask of first occurrences.

    Both are [M, T - n + 1]. All positions are compared with each other, so n-grams of unknown words count too.
    """
    same = words[:, :, None] == words[:, None, :]
    equal = same
    for n in range(1, ORDERS + 1):
        if n > 1:
            equal = equal[:, :-1, :-1] & same[:, n - 1 :, n - 1 :]
        first = (
            equal.argmax(-1) == np.arange(equal.shape[1]) if equal.size else np.zeros(equal.shape[:2], bool)
        )
        yield np.count_nonzero(equal, axis=-1), first & (words[:, n - 1 :] != NONE)
