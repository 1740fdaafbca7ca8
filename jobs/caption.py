"""Caption images, or a store of features: into a store of Parquet, or printed."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.captioners import CaptionerOptions, captioning, prompted_sources
from captionbeam.jobs.options.command import Result
from captionbeam.jobs.options.run import BulkCommand
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import STORE, option


@dataclass(frozen=True, kw_only=True)
class Caption(CaptionerOptions, BulkCommand):
    """Captions the images of every source, or the rows of a features store."""

    HELP = """\
  captionbeam caption new_photos/ --bundle bundle --output captions --beam 3
  captionbeam caption --features features --bundle bundle --output captions
  captionbeam caption --bundle bundle one.jpg
  captionbeam caption new_photos/ --captioner hf:blip-image-captioning-base --output captions
  captionbeam caption new_photos/ --captioner openai:http://localhost:8000/v1 --model Qwen2.5-VL \\
    --prompt "Describe this picture in one sentence." --output captions

Writes captions for the images of every SOURCE (as for encode), encoder and decoder in one pass, or for the rows of a
features store; or what a model behind an endpoint, or a chat model of transformers, answers to each --prompt. Images
that the store already has are not processed again. Without --output the captions are printed: of one image the text
alone, of several a line each, separated by tabs: id, log-probability (of bundles), score (of --score and --rerank),
prompt (of several), text.
"""
    name = "caption"

    output: str | None = option(
        None,
        "the captions store, new or with earlier snapshots (default: print the captions)",
        STORE,
        common=True,
    )

    def check(self) -> None:
        """Raises RequestError for a wrong captioner, and for options that need --output."""
        self.check_captioner()
        if self.output is not None:
            return
        if self.features:
            raise RequestError("--features needs --output; expected a folder for the captions")
        if self.dry_run:
            raise RequestError("--dry-run needs --output; without it captions are computed and printed")
        if self.pipeline_options:
            given = " ".join(self.pipeline_options)
            raise RequestError(f"{given} needs --output; without it captions are computed here and printed")

    def execute(self) -> Result:
        """Prints captions, or runs the pipeline and reports."""
        sources = prompted_sources(self, self.output)
        if self.output is None:
            from captionbeam.jobs.bulk.caption_now import print_captions

            return print_captions(self, sources)
        from captionbeam.jobs.bulk.launch import launch
        from captionbeam.jobs.run_on.target import resolve_target

        target, options = resolve_target(self)
        work = captioning(options, self.output, sources)
        return launch(work, self.output, options, target, self.gates())
