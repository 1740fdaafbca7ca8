"""BLEU, ROUGE-L and CIDEr of captions against references, equal to the published COCO evaluation.

Does not import torch. Use ``score`` for one evaluation, ``References`` to reuse the same references.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from captionbeam.capmodel.metrics.bleu import ORDERS, BleuCounts, add_counts, bleu, count_image
from captionbeam.capmodel.metrics.cider import CiderReferences
from captionbeam.capmodel.metrics.meteor import meteor
from captionbeam.capmodel.metrics.ptb import split_tokens, tokenize
from captionbeam.capmodel.metrics.rouge import rouge_l
from captionbeam.schemas.errors import RequestError

__all__ = ["METEOR", "SCORES", "Evaluation", "References", "score", "tokenize", "variety"]

SCORES = (
    *(f"Bleu_{order}" for order in range(1, ORDERS + 1)),
    "ROUGE_L",
    "CIDEr",
    "CIDEr_D",
    "CIDEr_original",
)
METEOR = "METEOR"  # on request


@dataclass(frozen=True)
class Evaluation:
    """Scores over all images, the BLEU counts, and every image's own scores."""

    scores: dict[str, float]
    counts: BleuCounts
    images: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Returns scores and counts as JSON values."""
        return {**self.scores, "counts": asdict(self.counts)}

    def with_scores(
        self, scores: Mapping[str, float], images: Mapping[str, Mapping[str, float]]
    ) -> Evaluation:
        """Returns the evaluation with further scores, over all images and of those images that have them."""
        own = {image: {**before, **images.get(image, {})} for image, before in self.images.items()}
        return replace(self, scores={**self.scores, **scores}, images=own)


class References:
    """The references of a fixed set of images, tokenized once.

    >>> references = References({"1": ["A dog runs.", "The dog is running"], "2": ["Two cats"]})
    >>> round(references.cider({"1": "a dog runs", "2": "two cats"}), 3)
    4.553
    """

    def __init__(self, captions: Mapping[str, Sequence[str]]) -> None:
        """``captions``: image id to its captions, as text. Raises RequestError for an image without captions."""
        if not captions or not all(captions.values()):
            bare = next((image for image, texts in captions.items() if not texts), None)
            what = "there are no references at all" if bare is None else f"image {bare!r} has no reference"
            raise RequestError(
                f"{what}; every image that is scored needs at least one caption to compare with"
            )
        tokens = iter(tokenize([text for texts in captions.values() for text in texts]))
        self._tokens = {image: [next(tokens) for _ in texts] for image, texts in captions.items()}
        self._words = {image: [split_tokens(one) for one in texts] for image, texts in self._tokens.items()}
        self._cider = CiderReferences(self._words)

    def cider(self, hypotheses: Mapping[str, str]) -> float:
        """Returns the CIDEr (that is, CIDEr-D) of one caption per image, for monitoring during training."""
        captions = self._tokenized(hypotheses)
        return sum(self._cider.cider_d(image, split_tokens(one)) for image, one in captions.items()) / len(
            captions
        )

    def evaluate(self, hypotheses: Mapping[str, str], with_meteor: bool = False) -> Evaluation:
        """Returns all scores, and METEOR on request.

        Raises RequestError unless ``hypotheses`` has exactly the images of the references, and as ``meteor`` does.
        """
        captions = self._tokenized(hypotheses)
        counts = {
            image: count_image(split_tokens(one), self._words[image]) for image, one in captions.items()
        }
        images = {image: self._score_image(image, one, counts[image]) for image, one in captions.items()}
        total = add_counts(counts.values())
        means = {name: sum(one[name] for one in images.values()) / len(images) for name in SCORES[ORDERS:]}
        scores = {**_by_order(bleu(total)), **means}
        if with_meteor:
            scores[METEOR], each = meteor(captions, self._tokens)
            images = {image: {**own, METEOR: each[image]} for image, own in images.items()}
        return Evaluation(scores, total, images)

    def _tokenized(self, hypotheses: Mapping[str, str]) -> dict[str, list[str]]:
        if odd := sorted(self._tokens.keys() ^ hypotheses.keys()):
            lacks = "no caption to score" if odd[0] in self._tokens else "no reference"
            raise RequestError(
                f"{len(odd)} images are not on both sides (image {odd[0]!r} has {lacks}); expected the same"
            )
        ordered = [hypotheses[image] for image in self._tokens]
        return dict(zip(self._tokens, tokenize(ordered), strict=True))

    def _score_image(self, image: str, tokens: list[str], counts: BleuCounts) -> dict[str, float]:
        words = split_tokens(tokens)
        cider_d = self._cider.cider_d(image, words)
        return {
            **_by_order(bleu(counts)),
            "ROUGE_L": rouge_l(tokens, self._tokens[image]),
            "CIDEr": cider_d,
            "CIDEr_D": cider_d,
            "CIDEr_original": self._cider.cider_original(image, words),
        }


def score(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns the scores of one caption per image against its references, by the names in SCORES, and ``counts``.

    ``CIDEr`` is what coco-caption publishes under that name, which is CIDEr-D; see ``cider``. Its idf comes from
    ``references``. Both arguments must have the same images.
    """
    return References(references).evaluate(hypotheses).to_dict()


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


def _by_order(scores: Sequence[float]) -> dict[str, float]:
    return dict(zip(SCORES, scores, strict=False))
