"""CIDEr-D of whole batches of captions, against references packed once.

Formula and values are those of ``capmodel.metrics.cider``, up to rounding. Document frequencies and the number of
images are those of the packed references: in training, the train split.

Shapes: B images of a batch, K captions of each, T words; R the most references of an image; I packed images, C packed
references, E pairs of an image and an n-gram of its references.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from captionbeam.capmodel.metrics.bleu import ORDERS
from captionbeam.capmodel.metrics.cider import SIGMA
from captionbeam.capmodel.self_critical.rewards.ngrams import NONE, NgramTable, count_repeats
from captionbeam.capmodel.self_critical.rewards.reading import CaptionReader
from captionbeam.capmodel.tokenizers import Tokenizer
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats.tokens import TokenTable


@dataclass(frozen=True)
class PackedReferences:
    """The references of I images as arrays: tf-idf vectors, with one row of counts per n-gram of an image."""

    table: NgramTable
    idf: np.ndarray  # float64 [n-grams + 1]; the last is that of n-grams in no reference
    norms: np.ndarray  # float64 [I, 4, R], 0 where there is no reference
    pairs: np.ndarray  # float64 [I, R]: a caption's length in pairs of words, as in the published code
    number: np.ndarray  # int64 [I]: references of each image
    starts: np.ndarray  # int64 [I + 1]: start of each image's n-grams
    ngrams: np.ndarray  # int64 [E], ascending within an image
    counts: np.ndarray  # unsigned [E, R]: occurrences of the n-gram in each reference

    @classmethod
    def pack(cls, references: Iterable[Sequence[Sequence[int]]]) -> PackedReferences:
        """``references``: each image's captions as word ids, which must cover 0 to the highest.

        Raises RequestError for an image without references.
        """
        images = list(references)
        number = np.array([len(image) for image in images], np.int64)
        if not len(number) or not number.all():
            raise RequestError(
                "an image without references has no CIDEr-D; expected one caption or more of each"
            )
        lengths = np.array([len(caption) for image in images for caption in image], np.int64)
        words = np.array([word for image in images for caption in image for word in caption], np.int64)
        return _pack(words, lengths, number)


def _pack(words: np.ndarray, lengths: np.ndarray, number: np.ndarray) -> PackedReferences:
    images, most = len(number), int(number.max())
    slot = np.arange(len(lengths)) - np.repeat(np.cumsum(number) - number, number)
    place = np.repeat(np.arange(images), number) * most + slot  # of a caption in [I, R]
    table = NgramTable(words, np.repeat(np.arange(len(lengths)), lengths))
    owner, ngram, counts = _occurrences(table, np.repeat(place, lengths))
    entries, entry = np.unique(owner // most * len(table) + ngram, return_inverse=True)
    idf = np.log(images) - np.log(np.bincount(entries % len(table), minlength=len(table)))
    rows = np.zeros((len(entries), most), np.min_scalar_type(counts.max(initial=1)))
    rows[entry, owner % most] = counts
    pairs = np.zeros(images * most)
    pairs[place] = np.maximum(0, lengths - 1)
    squares = np.zeros((images * most, ORDERS))
    np.add.at(squares, (owner, table.order(ngram)), (counts * idf[ngram]) ** 2)
    return PackedReferences(
        table=table,
        idf=np.append(idf, np.log(images)),
        norms=np.sqrt(squares).reshape(images, most, ORDERS).swapaxes(1, 2),
        pairs=pairs.reshape(images, most),
        number=number,
        starts=np.searchsorted(entries, np.arange(images + 1) * len(table)),
        ngrams=entries % len(table),
        counts=rows,
    )


def _occurrences(table: NgramTable, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns each caption's distinct n-grams: the caption's position, the n-gram's number and its count."""
    at, order = np.nonzero(table.occurrences != NONE)
    both = place[at] * len(table) + table.occurrences[at, order]
    both, counts = np.unique(both, return_counts=True)
    return *np.divmod(both, len(table)), counts


class CiderReward:
    """CIDEr-D of a batch's captions: 0 to 10 each."""

    def __init__(self, references: PackedReferences) -> None:
        self.references = references

    def __call__(self, images: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Returns the CIDEr-D of each caption, float64 [B, K].

        ``images`` [B]: indexes among the packed images. ``words``: int64 ids [B, K, T], padded with NONE.
        """
        packed, (batch, captions, length) = self.references, words.shape
        flat = words.reshape(batch * captions, length)
        products, norms = self._compare(images, flat, captions)
        image = np.repeat(images, captions)
        both = norms[:, :, None] * packed.norms[image]
        cosine = np.divide(products, both, out=np.zeros(both.shape), where=both > 0).sum(1)
        pairs = np.maximum(0, np.count_nonzero(flat != NONE, axis=1) - 1)
        cosine *= np.exp(-((pairs[:, None] - packed.pairs[image]) ** 2) / (2 * SIGMA**2))
        return (10 / ORDERS * cosine.sum(1) / packed.number[image]).reshape(batch, captions)

    def _compare(self, images: np.ndarray, words: np.ndarray, captions: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns for each caption and n the clipped products with the references [M, 4, R] and the norm [M, 4]."""
        packed, most = self.references, self.references.counts.shape[1]
        caption, order, ngram, counts = self._count(words)
        weights = counts * packed.idf[ngram]
        group = caption * ORDERS + order
        norms = np.sqrt(np.bincount(group, weights**2, minlength=len(words) * ORDERS))
        hit, entry = self._find_entries(images, caption // captions, ngram)
        group, ngram, weights = group[hit], ngram[hit], weights[hit, None]
        theirs = packed.counts[entry] * packed.idf[ngram, None]
        bins = (group[:, None] * most + np.arange(most)).ravel()
        clipped = (np.minimum(weights, theirs) * theirs).ravel()
        products = np.bincount(bins, clipped, minlength=len(words) * ORDERS * most)
        return products.reshape(-1, ORDERS, most), norms.reshape(-1, ORDERS)

    def _count(self, words: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns each caption's distinct n-grams: the caption's position, n - 1, the n-gram's number and its count."""
        parts = []
        both = zip(self.references.table.find(words), count_repeats(words), strict=True)
        for order, (found, (counts, first)) in enumerate(both):
            place = np.nonzero(first)
            parts.append((place[0], np.full(len(place[0]), order), found[place], counts[place]))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def _find_entries(
        self, images: np.ndarray, place: np.ndarray, ngram: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns which n-grams, of the batch's images at ``place``, occur in the references, and their rows."""
        packed, size = self.references, len(self.references.table)
        starts, lengths = packed.starts[images], np.diff(packed.starts)[images]
        shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        rows = (
            np.arange(len(shift)) + shift
        )  # entries of the batch's images only, which are few enough for the CPU's cache
        keys = np.repeat(np.arange(len(images)), lengths) * size + packed.ngrams[rows]
        wanted = np.where(ngram >= 0, place * size + ngram, NONE)
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = np.flatnonzero(keys[found] == wanted) if len(keys) else np.empty(0, np.int64)
        return hit, rows[found[hit]] if len(hit) else hit


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
