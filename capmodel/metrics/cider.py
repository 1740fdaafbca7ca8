"""CIDEr and CIDEr-D (Vedantam, Zitnick, Parikh 2015, https://arxiv.org/abs/1411.5726).

A caption and each of its references become tf-idf vectors of their n-grams, one for each n of 1 to 4; idf is the log
of (images / images with the n-gram in some reference). The score is 10 times the mean over n and over the references
of a similarity of the two vectors h and r:

- ``cider_d``: sum of min(h, r) * r / (|h| |r|), times exp(-(words(h) - words(r))^2 / (2 * 6^2)): equation 4 of the
  paper. coco-caption and pycocoevalcap compute this and call it ``CIDEr``; so does every published CIDEr for COCO.
- ``cider_original``: the cosine, h * r / (|h| |r|), without clipping and length penalty: equations 2 and 3, which the
  authors' code (vrama91/cider, class ``Cider``) also scales by 10. The paper stems the words first; that code and
  this module do not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captionbeam.capmodel.metrics.bleu import ORDERS, Ngrams, ngrams

SIGMA = 6.0


@dataclass(frozen=True)
class _Vector:
    weights: dict[tuple[str, ...], float]
    norms: tuple[float, ...]  # one for each n
    pairs: int  # the published code measures a caption's length in pairs of words


class CiderReferences:
    """The references of a fixed set of images as vectors, computed once for all epochs."""

    def __init__(self, references: Mapping[str, Sequence[Sequence[str]]]) -> None:
        counted = {image: [ngrams(words) for words in captions] for image, captions in references.items()}
        self._seen_in = Counter(ngram for captions in counted.values() for ngram in set().union(*captions))
        self._log_images = math.log(len(counted)) if counted else 0.0
        self._idf: dict[tuple[str, ...], float] = {}
        self._vectors = {
            image: [self._vector(one) for one in captions] for image, captions in counted.items()
        }

    def cider_d(self, image: str, hypothesis: Sequence[str]) -> float:
        """Returns the CIDEr-D of one image's caption, as words: 0 to 10."""
        return self._score(image, hypothesis, clipped=True)

    def cider_original(self, image: str, hypothesis: Sequence[str]) -> float:
        """Returns the CIDEr without clipping and length penalty of one image's caption, as words: 0 to 10."""
        return self._score(image, hypothesis, clipped=False)

    def _score(self, image: str, hypothesis: Sequence[str], clipped: bool) -> float:
        caption, references = self._vector(ngrams(hypothesis)), self._vectors[image]
        total = sum(_similarity(caption, reference, clipped) for reference in references)
        return 10 * total / ORDERS / len(references)

    def _vector(self, counts: Ngrams) -> _Vector:
        weights = {ngram: count * self._rarity(ngram) for ngram, count in counts.items()}
        squares = [0.0] * ORDERS
        pairs = 0
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight * weight
            pairs += counts[ngram] if len(ngram) == 2 else 0
        return _Vector(weights, tuple(math.sqrt(square) for square in squares), pairs)

    def _rarity(self, ngram: tuple[str, ...]) -> float:
        idf = self._idf.get(ngram)
        if idf is None:
            idf = self._log_images - math.log(max(1, self._seen_in[ngram]))
            if ngram in self._seen_in:
                self._idf[ngram] = idf
        return idf


def _similarity(caption: _Vector, reference: _Vector, clipped: bool) -> float:
    """Returns the sum over n of the similarity of two captions' vectors."""
    products = [0.0] * ORDERS
    for ngram, weight in caption.weights.items():
        other = reference.weights.get(ngram)
        if other is not None:
            products[len(ngram) - 1] += (min(weight, other) if clipped else weight) * other
    norms = zip(products, caption.norms, reference.norms, strict=True)
    cosine = sum(product / (one * two) for product, one, two in norms if one and two)
    distance = caption.pairs - reference.pairs
    return cosine * math.exp(-(distance**2) / (2 * SIGMA**2)) if clipped else cosine
