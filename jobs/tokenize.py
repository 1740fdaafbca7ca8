"""Tokenize captions: learn a tokenizer and write a token table, for train."""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options.shared import natural, positive, share
from captionbeam.jobs.run_on.options import add_launch_options
from captionbeam.jobs.ui.progress import Progress, clock, polling
from captionbeam.jobs.ui.summary import print_table, size
from captionbeam.jobs.ui.terminal import note
from captionbeam.schemas.formats.tokens import SPLITS, TokenTable, read_record
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    from captionbeam.jobs.run_on.target import RunTarget

BEAM = True
HELP = """\
  captionbeam tokenize --train captions_train2014.json --val captions_val2014.json --output tokens
  captionbeam tokenize --train dataset_coco.json --output tokens               # has its own splits
  captionbeam tokenize --train captions.parquet --val-share 0.05 --output tokens --kind words --min-count 5

Turns captions into token ids. CAPTIONS is COCO's JSON (also inside its zip), Karpathy's split JSON, JSON
lines (.jsonl) or Parquet, on this disk or any fsspec URL, wildcards allowed. The tokenizer learns from the
captions of --train alone. Splits that a file itself names hold; of a --val file with such splits only the val
rows are taken.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``captionbeam tokenize``."""
    parser.add_argument(
        "--train", nargs="+", required=True, metavar="CAPTIONS", help="captions to learn from"
    )
    parser.add_argument("--val", nargs="+", default=[], metavar="CAPTIONS", help="captions to validate with")
    parser.add_argument(
        "--val-share",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="instead of --val: this share of the images of --train, by a hash of their ids",
    )
    parser.add_argument(
        "--output", required=True, metavar="TOKENS", help="folder for the table and the tokenizer"
    )
    parser.add_argument("--member", metavar="NAME", help="the caption file inside a zip that holds several")
    parser.add_argument(
        "--kind",
        choices=("bpe", "words", "whitespace"),
        default="bpe",
        help="bpe: byte pairs; words: lower-cased, no punctuation; whitespace: as they stand (default bpe)",
    )
    parser.add_argument("--merges", type=natural, metavar="N", help="of bpe (default 4000)")
    parser.add_argument(
        "--min-count", type=positive, metavar="N", help="of words: rarer ones become UNK (default 5)"
    )
    parser.add_argument(
        "--max-length", type=positive, default=64, metavar="N", help="tokens with START and END (default 64)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another token table at TOKENS")
    add_launch_options(parser, gpu=False)


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Makes the token table, unless it exists."""
    from captionbeam.jobs.run_on.target import settle_target
    from captionbeam.pipelines.tokens.inputs import list_inputs
    from captionbeam.pipelines.tokens.tokenize import TokenizeOptions, counts_so_far, tokenizing

    places = {"--train": options.train, "--val": options.val, "--output": [options.output]}
    target = settle_target(beam_args, places, models=False)
    inputs = list_inputs(options.train, options.val, options.member, options.val_share)
    wanted = TokenizeOptions.of(options.kind, options.max_length, options.merges, options.min_count)
    start, run_id, url = time.monotonic(), uuid.uuid4().hex, files.absolute(options.output)
    build = tokenizing(url, inputs, wanted, options.overwrite, run_id)
    if build is None:
        print(f"nothing to do: {options.output} holds this very token table")
        return _report(url, options.output, None)
    if options.dry_run:
        _look(target, build, run_id, url, wanted, inputs)
        return 0
    files.check_writable(url)
    progress = Progress("tokenize", unit="captions", stream=sys.stderr)

    def poll() -> None:
        encoded, read = counts_so_far(run_id)
        if read:
            progress.update(encoded, read)

    with polling(progress, poll):
        done = _run_on(target, build, run_id, url)
    return _report(url, options.output, time.monotonic() - start) if done else 0


def _run_on(target: RunTarget, build: Any, run_id: str, url: str) -> bool:
    from captionbeam.jobs.run_on.running import run_on

    return run_on(target, build, "tokenize", run_id, url, url)


def _look(target: RunTarget, build: Any, run_id: str, url: str, wanted: Any, inputs: Sequence[Any]) -> None:
    from captionbeam.jobs.run_on.running import print_dry

    about = {"job": "tokenize", "output": url, "options": wanted.spec()}
    captions = [source.to_dict() for source in inputs]
    print_dry(target, build, "tokenize", run_id, url, {**about, "captions": captions})


def _report(url: str, named: str, seconds: float | None) -> int:
    record = TokenTable.open(url).record if seconds is not None else read_record(url)
    if record is not None:
        print_table(f"tokens: {named}", _rows(record, seconds))
        if not record["splits"]["val"]["captions"]:
            note("no captions to validate with; train wants some: --val CAPTIONS or --val-share 0.05")
    return 0


def _rows(record: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
    tokenizer = record["tokenizer"]
    options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in tokenizer["options"].items())
    rows = {
        "tokenizer": f"{tokenizer['kind']}, {options}",
        "vocabulary": f"{tokenizer['vocab_size']:,} tokens",
    }
    for split in SPLITS:
        counts = record["splits"][split]
        if counts["images"] or split != "test":
            rows[split] = _split_line(counts)
    left_out = {name: count for name, count in record["left_out"].items() if count}
    if left_out:
        rows["left out"] = ", ".join(
            f"{count:,} {name.replace('_', ' ')}" for name, count in left_out.items()
        )
    rows["table"] = size(record["bytes"])
    if seconds is not None:
        rows["time"] = clock(seconds)
    return rows


def _split_line(counts: Mapping[str, Any]) -> str:
    captions = f"{counts['captions']:,} captions of {counts['images']:,} images"
    lengths = f"{counts['mean_tokens']:.1f} tokens each, longest {counts['longest']}, {counts['cut']:,} cut"
    return f"{captions}, {lengths}, {counts['unknown_share']:.2%} UNK"
