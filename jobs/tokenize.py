"""Tokenize captions: learn a tokenizer and write a token table, for train."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captionbeam.jobs.options import inputs
from captionbeam.jobs.options.command import PipelineCommand, Result
from captionbeam.jobs.options.run import LaunchOptions
from captionbeam.jobs.ui.progress import Progress, clock, watching
from captionbeam.jobs.ui.summary import print_table, size
from captionbeam.jobs.ui.terminal import note, say
from captionbeam.pipelines.tokens.tokenize_options import TokenizeOptions
from captionbeam.schemas.formats.tokens import SPLITS, TokenTable, read_record
from captionbeam.schemas.options import NAME, SHARE, option, part_of, text
from captionbeam.schemas.storage import files


@dataclass(frozen=True, kw_only=True)
class Tokenize(TokenizeOptions, LaunchOptions, PipelineCommand):
    """Learns a tokenizer from captions and writes a token table."""

    HELP = """\
  captionbeam tokenize --train captions_train2014.json --val captions_val2014.json --output tokens
  captionbeam tokenize --train dataset_coco.json --output tokens               # has its own splits
  captionbeam tokenize --train captions.parquet --val-share 0.05 --output tokens --kind words --min-count 5

Converts captions to token ids. CAPTIONS is COCO's JSON (also inside its zip), Karpathy's split JSON, JSON lines
(.jsonl) or Parquet: a path, a URL or a glob. The tokenizer is learned from the captions of --train only. If a file
names splits itself, these are used; of such a file in --val only the images of the split val are used. Other flags are
those of Beam's PipelineOptions.
"""
    name = "tokenize"

    train: tuple[str, ...] = option(
        ..., "captions for training", text("CAPTIONS"), several=True, opens=inputs.captions
    )
    val: tuple[str, ...] = option(
        (), "captions for validation", text("CAPTIONS"), several=True, opens=inputs.captions
    )
    val_share: float = option(
        0.0, "instead of --val: use this share of the images of --train, chosen by a hash of their ids", SHARE
    )
    output: str = option(..., "the folder of the token table and the tokenizer", text("TOKENS"))
    member: str | None = option(None, "the caption file inside a zip that has several", NAME)
    overwrite: bool = option(False, "replace another token table in the output folder")

    def execute(self) -> Result:
        """Makes the token table, unless it exists."""
        from captionbeam.jobs.run_on.running import print_dry, run_on
        from captionbeam.jobs.run_on.target import settle_target
        from captionbeam.pipelines.tokens.inputs import list_inputs
        from captionbeam.pipelines.tokens.tokenize import counts_so_far, tokenizing

        places = {"--train": self.train, "--val": self.val, "--output": [self.output]}
        target = settle_target(self.pipeline_options, places, models=False)
        inputs = list_inputs(self.train, self.val, self.member, self.val_share)
        wanted = part_of(TokenizeOptions, self)
        start, run_id, url = time.monotonic(), uuid.uuid4().hex, files.absolute(self.output)
        build = tokenizing(url, inputs, wanted, self.overwrite, run_id)
        if build is None:
            say(f"nothing to do: {self.output} has this token table already")
            return self._result(url, read_record(url) or {})
        if self.dry_run:
            captions = [source.to_dict() for source in inputs]
            about = {"job": self.name, "output": url, "options": wanted.spec(), "captions": captions}
            return Result(totals=print_dry(target, build, self.name, run_id, url, about))
        files.check_writable(url)

        def look(progress: Progress) -> None:
            encoded, read = counts_so_far(run_id)
            if read:
                progress.update(encoded, read)

        with watching(Progress(self.name, unit="captions"), look):
            done = run_on(target, build, self.name, run_id, url, url)
        if not done:
            return Result(output=url)
        return self._result(url, TokenTable.open(url).record, time.monotonic() - start)

    def _result(self, url: str, record: Mapping[str, Any], seconds: float | None = None) -> Result:
        """Prints the token table's record, and returns it."""
        print_table(f"tokens: {self.output}", _rows(record, seconds))
        if not record["splits"]["val"]["captions"]:
            note(
                "there are no captions for validation, which train needs; expected --val CAPTIONS or --val-share 0.05"
            )
        return Result(totals=record, output=url)


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
            captions = f"{counts['captions']:,} captions of {counts['images']:,} images"
            lengths = f"{counts['mean_tokens']:.1f} tokens each, longest {counts['longest']}"
            rows[split] = f"{captions}, {lengths}, {counts['cut']:,} cut, {counts['unknown_share']:.2%} UNK"
    left_out = {name: count for name, count in record["left_out"].items() if count}
    if left_out:
        rows["left out"] = ", ".join(
            f"{count:,} {name.replace('_', ' ')}" for name, count in left_out.items()
        )
    rows["table"] = size(record["bytes"])
    if seconds is not None:
        rows["time"] = clock(seconds)
    return rows
