"""Score captions against references: BLEU, ROUGE-L, CIDEr and METEOR, as the published COCO code, and CLIPScore."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options import inputs
from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.options.scorers import HUGGING_FACE, SCORER, check_installed
from captionbeam.jobs.options.sources import ReadingOptions
from captionbeam.jobs.ui.summary import print_table
from captionbeam.jobs.ui.terminal import say
from captionbeam.schemas.errors import RequestError, StoreError
from captionbeam.schemas.options import FILE, NAME, STORE, like, one_of, option, text

if TYPE_CHECKING:
    from captionbeam.capmodel.captioners.huggingface.scorer import Scorer

TITLES = {
    "Bleu_1": "BLEU-1",
    "Bleu_2": "BLEU-2",
    "Bleu_3": "BLEU-3",
    "Bleu_4": "BLEU-4",
    "ROUGE_L": "ROUGE-L",
    "CIDEr": "CIDEr (CIDEr-D)",
    "CIDEr_original": "CIDEr, original",
    "METEOR": "METEOR",
    "CLIPScore": "CLIPScore",
    "RefCLIPScore": "RefCLIPScore",
}


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """Captions that people wrote."""

    GROUP = "references"

    references: tuple[str, ...] = option(
        (),
        "captions that people wrote: one file or several",
        text("CAPTIONS"),
        several=True,
        common=True,
        opens=inputs.captions,
    )
    split: str | None = option(
        None, "only references of this split, where the file has splits", one_of("train", "val", "test")
    )
    member: str | None = option(None, "the caption file inside a zip that has several", NAME)

    def read_references(self) -> Any:
        """Returns the references by image, and their sources. Raises RequestError."""
        from captionbeam.jobs.reporting.scoring import read_references

        return read_references(self.references, self.member, self.split)


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """Which captions of a store."""

    GROUP = "captions"

    column: str | None = option(
        None, "of a store with the answers to several prompts: one prompt's name", NAME
    )


@dataclass(frozen=True, kw_only=True)
class Evaluate(ReferenceOptions, ColumnOptions, Command):
    """Scores captions against references: BLEU, ROUGE-L and CIDEr."""

    HELP = """\
  captionbeam evaluate --captions captions --references captions_val2014.json
  captionbeam evaluate --captions results.json --references dataset_coco.json --split test --json
  captionbeam evaluate --captions exported --references first.json second.jsonl

Scores the captions of a store (the best one of each row), of its export as JSON lines, or of COCO results, a
list of {image_id, caption} as JSON or JSON lines, against what people wrote: COCO's JSON (also inside its zip),
Karpathy's split JSON, JSON lines or Parquet; what several files have of one image adds up. Images are joined by id or
file name, else by unique base name. --meteor alone needs Java. --clip reads the images again, where the store read
them.

CIDEr is what coco-caption publishes under that name, which is CIDEr-D. CIDEr_original has neither its
clipping nor its length penalty. idf comes from the references of the scored images.
"""
    name = "evaluate"

    captions: str = option(
        ..., "a captions store, its export as JSON lines, or COCO results (.json, .jsonl)", STORE, common=True
    )
    meteor: bool = option(
        False, "also METEOR, by its published program: needs Java, 2 GB of memory, and the extra meteor"
    )
    clip: str | None = option(
        None,
        "also CLIPScore and RefCLIPScore by this CLIP model of Hugging Face transformers: a folder of save_pretrained, "
        "or a name on the hub, optionally with @REVISION (extra: huggingface)",
        SCORER,
    )
    allow_private_addresses: bool = like(ReadingOptions, "allow_private_addresses")
    json: bool = option(False, "print one JSON object instead of a table")
    per_image: str | None = option(
        None, "also write each image's caption, scores and kept columns to this file, as JSON lines", FILE
    )

    def execute(self) -> Result:
        """Computes and prints the scores, which are the totals."""
        from captionbeam.capmodel.metrics.meteor import meteor_scorer
        from captionbeam.jobs.reporting.scoring import (
            join_references,
            read_captions,
            read_kept,
            read_scores,
            write_output,
        )

        if not self.references:
            raise RequestError(
                "--references is missing; expected captions that people wrote: one file or several"
            )
        if self.meteor:
            meteor_scorer()
        scorer = self._clip_scorer()
        pairs = join_references(read_captions(self.captions, self.column), *self.read_references())
        evaluation = pairs.evaluate(self.meteor)
        notes = pairs.notes()
        if scorer is not None:
            from captionbeam.jobs.reporting.clip import clip_scores
            from captionbeam.pipelines.fetch.byte_ranges import FetchOptions

            reading = FetchOptions(allow_private=self.allow_private_addresses)
            found = clip_scores(self.captions, pairs, scorer, reading)
            evaluation = evaluation.with_scores(found.means, found.images)
            notes += [found.note()] if found.unread else []
        if self.per_image:
            scores = read_scores(self.captions, self.column)
            own = {
                image: {**of_image, **({"score": scores[image]} if image in scores else {})}
                for image, of_image in evaluation.images.items()
            }
            rows = image_rows(pairs.captions, own, read_kept(self.captions))
            write_output(self.per_image, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        record = summary(self, pairs, evaluation)
        if self.json:
            say(json.dumps(record))
        else:
            print_table("scores", score_rows(record))
        for line in notes:
            say(line, to_error=self.json)
        return Result(totals=record)

    def _clip_scorer(self) -> Scorer | None:
        """Returns the scorer of --clip. Raises RequestError, also for captions without images."""
        from captionbeam.jobs.reporting.scoring import open_captions

        if self.clip is None:
            return None
        check_installed(f"--clip {self.clip}")
        try:
            open_captions(self.captions)
        except StoreError as err:
            raise RequestError(f"--clip reads the images that a store's captions are of: {err}") from err
        from captionbeam.jobs.reporting.clip import load_clip

        return load_clip(self.clip.removeprefix(HUGGING_FACE))


def image_rows(
    captions: Mapping[str, str],
    scores: Mapping[str, Mapping[str, float]],
    kept: Mapping[str, Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Yields the lines of ``--per-image``. A kept column with the name of another one is called ``input_NAME``."""
    for image, own in scores.items():
        line = {"image_id": image, "caption": captions[image], **own}
        beside = kept.get(image, {})
        yield {**line, **{f"input_{name}" if name in line else name: value for name, value in beside.items()}}


def summary(options: Evaluate, pairs: Any, evaluation: Any) -> dict[str, Any]:
    """Returns the output of ``--json``: scores, counts, unmatched images, variety of the captions."""
    from captionbeam.capmodel.metrics import variety

    return {
        **evaluation.to_dict(),
        "images": len(pairs.captions),
        "references": sum(map(len, pairs.references.values())),
        "images_without_caption": len(pairs.without_caption),
        "captions_without_references": len(pairs.without_references),
        "variety": variety(pairs.captions.values()),
        "captions": options.captions,
        "references_from": list(options.references),
    }


def score_rows(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the rows of the printed table."""
    counts, said = record["counts"], record["variety"]
    rows = {title: f"{record[name]:.4f}" for name, title in TITLES.items() if name in record}
    return {
        "captions": record["captions"],
        "references": ", ".join(record["references_from"]),
        **rows,
        "images": f"{record['images']:,}, with {record['references']:,} references",
        "words": f"{counts['testlen']:,}, closest references {counts['reflen']:,}",
        "distinct captions": f"{said['distinct']:,} ({said['distinct_share']:.1%})",
        "vocabulary": f"{said['vocabulary']:,} words, {said['mean_words']:.1f} a caption",
    }
