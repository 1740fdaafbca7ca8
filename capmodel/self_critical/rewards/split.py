"""The reward of captions of a split's images, by row of the token table."""

from __future__ import annotations

import numpy as np

from captionbeam.capmodel.self_critical.rewards.cider_d import CiderReward, PackedReferences
from captionbeam.capmodel.self_critical.rewards.reading import CaptionReader
from captionbeam.capmodel.tokenizers import Tokenizer
from captionbeam.schemas.formats.tokens import TokenTable


class SplitReward:
    """CIDEr-D against all human captions of an image, with document frequencies of the given images.

    END counts as a word: see CaptionReader.
    """

    def __init__(self, table: TokenTable, rows: np.ndarray, tokenizer: Tokenizer) -> None:
        """``rows`` [I] of the ``table`` are the images."""
        captions = table.table["captions"].take(rows).to_pylist()
        self.reader = CaptionReader(tokenizer, count_end=True)
        self.cider = CiderReward(PackedReferences.pack(self.reader.references(captions)))
        self._place = np.full(len(table.table), -1)
        self._place[rows] = np.arange(len(rows))

    def __call__(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Returns the rewards [B, N] of ``tokens`` int64 [B, N, T] (END is optional) for the images ``rows`` [B]."""
        images, captions, length = tokens.shape
        words = self.reader(tokens.reshape(images * captions, length))
        return self.cider(self._place[rows], words.reshape(images, captions, -1))
