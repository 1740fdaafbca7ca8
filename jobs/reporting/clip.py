"""CLIPScore and RefCLIPScore (Hessel et al. 2021) of the captions of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from captionbeam.jobs.reporting.pictures import fetch_pictures
from captionbeam.jobs.reporting.scoring import Pairs, open_captions
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.schemas import Store
from captionbeam.schemas.counts import counted
from captionbeam.schemas.errors import ImageError, RequestError

if TYPE_CHECKING:
    from captionbeam.capmodel.captioners.huggingface.scorer import Scorer

AT_ONCE = 64  # images in memory
CLIP_SCORE, REF_CLIP_SCORE = "CLIPScore", "RefCLIPScore"


@dataclass(frozen=True)
class ClipScores:
    """Scores of each image by name, and why an image that cannot be read has none."""

    images: Mapping[str, Mapping[str, float]]
    unread: Mapping[str, str]

    @property
    def means(self) -> dict[str, float]:
        """The mean of each score over the images that have it."""
        rows = self.images.values()
        return {name: sum(row[name] for row in rows) / len(rows) for name in (CLIP_SCORE, REF_CLIP_SCORE)}

    def note(self) -> str:
        """Returns a sentence about images without scores; "" if there are none."""
        if not self.unread:
            return ""
        image, reason = next(iter(self.unread.items()))
        return f"{counted(len(self.unread), 'image')} without {CLIP_SCORE} (such as {image!r}: {reason})"


def load_clip(name: str) -> Scorer:
    """Returns the scorer of ``name``, a folder or a hub's name. Raises RequestError unless it is a CLIP."""
    from captionbeam.capmodel.captioners.huggingface.scorer import Scorer, resolve_scorer

    plan = resolve_scorer(name)
    if plan.spec.model_type != "clip":
        raise RequestError(
            f"--clip {name!r} is a model of {plan.spec.model_type}; expected CLIP, of which CLIPScore is"
        )
    return Scorer.load(plan.folder)


def clip_scores(url: str, pairs: Pairs, scorer: Scorer, reading: FetchOptions) -> ClipScores:
    """Returns the scores of the captions of ``pairs``, whose images are read where the store ``url`` read them.

    Raises RequestError if ``url`` is no captions store, and if no image can be read.
    """
    places = list(_locations(open_captions(url), pairs.captions).items())
    images: dict[str, dict[str, float]] = {}
    unread: dict[str, str] = {}
    for start in range(0, len(places), AT_ONCE):
        part = places[start : start + AT_ONCE]
        found = fetch_pictures([location for _, location in part], reading)
        pictures = {}
        for (image, _), data in zip(part, found, strict=True):
            try:
                pictures[image] = scorer.prepare(_bytes(data))
            except (ImageError, OSError) as err:
                unread[image] = str(err)
        images |= _scores(pictures, pairs, scorer) if pictures else {}
    if not images:
        raise RequestError(
            f"none of the images of {url} can be read ({next(iter(unread.values()))}); expected some"
        )
    return ClipScores(images, unread)


def _locations(store: Store, captions: Mapping[str, Any]) -> dict[str, str]:
    rows = [row for batch in store.scan(["image_id", "uri"]) for row in batch.to_pylist()]
    return {row["image_id"]: row["uri"] for row in rows if row["image_id"] in captions}


def _bytes(data: bytes | Exception) -> bytes:
    if isinstance(data, Exception):
        raise data
    return data


def _scores(
    pictures: Mapping[str, torch.Tensor], pairs: Pairs, scorer: Scorer
) -> dict[str, dict[str, float]]:
    """Returns the scores of images by name.

    RefCLIPScore is the harmonic mean of CLIPScore and the largest cosine of the caption to a reference, 0 at least, as
    in the paper's code: all texts have the prefix of CLIPScore.
    """
    names = list(pictures)
    references = [pairs.references[name] for name in names]
    captions, _ = scorer.text_features([pairs.captions[name] for name in names])
    others, _ = scorer.text_features([text for own in references for text in own])
    clip = scorer.scores(scorer.image_features(list(pictures.values())), captions)
    nearest = _nearest(captions, others.split(list(map(len, references))))
    both = torch.nan_to_num(2 * clip * nearest / (clip + nearest))
    return {
        name: {CLIP_SCORE: one, REF_CLIP_SCORE: other}
        for name, one, other in zip(names, clip.tolist(), both.tolist(), strict=True)
    }


def _nearest(captions: torch.Tensor, references: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns float32 ``[N]``: the largest cosine of each caption to its references, 0 at least."""
    pairs = zip(captions, references, strict=True)
    return torch.stack([(own @ caption).max().clamp(min=0) for caption, own in pairs])
