"""Encode images to features (grids, pooled vectors or logits) in a store of Parquet or HDF5."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import Result
from captionbeam.jobs.options.features import EncodingOptions, check_encoding, encoding
from captionbeam.jobs.options.run import BulkCommand
from captionbeam.schemas.options import PRECISION, STORE, one_of, option


@dataclass(frozen=True, kw_only=True)
class Encode(EncodingOptions, BulkCommand):
    """Encodes the images of every source and publishes the store's next snapshot."""

    HELP = """\
  captionbeam encode photos.zip --output features --encoder efficientnet_lite0
  captionbeam encode --features features --output small --reduce components.safetensors

Encodes the images of every SOURCE and publishes them as the store's next snapshot. Images that the store already has
are not processed again, so the same command resumes a stopped run and adds new images. A SOURCE is a folder, a glob, a
zip (read in place), a tar, Parquet with images in it, a list of URIs (.txt .csv .jsonl .parquet) or a COCO annotation
file with --image-root; on a local disk, gs://, s3:// or http(s)://. Other flags are those of Beam's PipelineOptions
(--runner, ...).
"""
    name = "encode"

    output: str = option(..., "the store: a folder, new or with earlier snapshots", STORE, common=True)
    format: str = option(
        "parquet", "format of a new store's shards: parquet or hdf5", one_of("parquet", "hdf5"), common=True
    )
    precision: str | None = option(
        "auto", "auto, fp32 or bf16; auto is bf16 where this machine computes in it", PRECISION, common=True
    )

    def check(self) -> None:
        """Raises RequestError unless images and an encoder, or features and what to do with them, are given."""
        check_encoding(self)

    def execute(self) -> Result:
        """Resolves sources and encoder, runs the pipeline, and reports."""
        from captionbeam.jobs.bulk.launch import launch
        from captionbeam.jobs.run_on.target import resolve_target

        target, options = resolve_target(self)
        return launch(encoding(options, self.output), self.output, options, target, self.gates(), self.format)
