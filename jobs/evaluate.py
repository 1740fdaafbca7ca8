"""Score captions against references: BLEU, ROUGE-L and CIDEr, equal to the published COCO code's."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from captionbeam.jobs.ui.summary import print_table

HELP = """\
  captionbeam evaluate --captions captions --references captions_val2014.json
  captionbeam evaluate --captions results.json --references dataset_coco.json --split test --json
  captionbeam evaluate --captions exported --references first.json second.jsonl

Scores the captions of a store (the best one of each row), of its export as JSON lines, or of COCO results as
JSON, a list of {image_id, caption}, against what people wrote: COCO's JSON (also inside its zip), Karpathy's
split JSON, JSON lines or Parquet; what several files have of one image adds up. Images are joined by id or file
name, else by unique base name. No Java is needed.

CIDEr is what coco-caption publishes under that name, which is CIDEr-D. CIDEr_original has neither its
clipping nor its length penalty. idf comes from the references of the scored images.
"""
TITLES = {
    "Bleu_1": "BLEU-1",
    "Bleu_2": "BLEU-2",
    "Bleu_3": "BLEU-3",
    "Bleu_4": "BLEU-4",
    "ROUGE_L": "ROUGE-L",
    "CIDEr": "CIDEr (CIDEr-D)",
    "CIDEr_original": "CIDEr, original",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``captionbeam evaluate``."""
    parser.add_argument(
        "--captions",
        required=True,
        metavar="STORE",
        help="a captions store, its export as JSON lines, or COCO results (.json)",
    )
    add_reference_options(parser, required=True)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--per-image", metavar="FILE", help="also write each image's caption and scores there, as JSON lines"
    )


def add_reference_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Adds the options of references, also for ``report``."""
    parser.add_argument(
        "--references",
        required=required,
        nargs="+",
        action="extend",
        metavar="CAPTIONS",
        help="captions that people wrote: one file or several",
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        help="only references of this split, where the file has any",
    )
    parser.add_argument("--member", metavar="NAME", help="the caption file inside a zip that holds several")


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Computes and prints the scores."""
    from captionbeam.jobs.reporting.scoring import (
        join_references,
        read_captions,
        read_references,
        write_output,
    )

    references = read_references(options.references, options.member, options.split)
    pairs = join_references(read_captions(options.captions), *references)
    evaluation = pairs.evaluate()
    if options.per_image:
        lines = [
            json.dumps({"image_id": image, "caption": pairs.captions[image], **scores})
            for image, scores in evaluation.images.items()
        ]
        write_output(options.per_image, ("\n".join(lines) + "\n").encode())
    record = summary(options, pairs, evaluation)
    if options.json:
        print(json.dumps(record))
    else:
        print_table("scores", score_rows(record))
    for note in pairs.notes():
        print(note, file=sys.stderr if options.json else sys.stdout)
    return 0


def summary(options: argparse.Namespace, pairs: Any, evaluation: Any) -> dict[str, Any]:
    """Returns the output of ``--json``: scores, counts, unmatched images, variety of the captions."""
    from captionbeam.capmodel.metrics.variety import variety

    return {
        **evaluation.to_dict(),
        "images": len(pairs.captions),
        "references": sum(map(len, pairs.references.values())),
        "images_without_caption": len(pairs.without_caption),
        "captions_without_references": len(pairs.without_references),
        "variety": variety(pairs.captions.values()),
        "captions": options.captions,
        "references_from": options.references,
    }


def score_rows(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the rows of the printed table."""
    counts, said = record["counts"], record["variety"]
    rows = {title: f"{record[name]:.4f}" for name, title in TITLES.items()}
    return {
        "captions": record["captions"],
        "references": ", ".join(record["references_from"]),
        **rows,
        "images": f"{record['images']:,}, with {record['references']:,} references",
        "words": f"{counts['testlen']:,}, closest references {counts['reflen']:,}",
        "distinct captions": f"{said['distinct']:,} ({said['distinct_share']:.1%})",
        "vocabulary": f"{said['vocabulary']:,} words, {said['mean_words']:.1f} a caption",
    }
