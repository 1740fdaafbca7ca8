"""``store export``: writes the live rows of a snapshot as files for other tools."""

from __future__ import annotations

import argparse

HELP = """\
  captionbeam store export captions --output captions-2026-12 --format jsonl
  captionbeam store export features@prod --output /data/grids --format npy

Writes the live rows of a snapshot of STORE to the folder or URL --output, which must be new or empty and appears
whole or not at all. Superseded and deleted rows, and failures, are left out.

  parquet     features as lists of float32 (grids flat, C order), captions nested; opens in any reader
  jsonl       the same, one JSON object a line
  csv         a line a caption, best first; or a column a number of pooled features
  webdataset  tars with 000000012.npy and .json for each sample (captions: .json alone)
  npy         features in one array [N, ...] float16 that numpy memory-maps, and ids.jsonl with its rows' ids

parquet, jsonl and csv have schema.json beside them, in BigQuery's format:

  bq load --source_format=NEWLINE_DELIMITED_JSON SET.TABLE 'gs://BUCKET/OUTPUT/part-*.jsonl' schema.json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store export``."""
    from captionbeam.jobs.options.shared import positive
    from captionbeam.jobs.store_commands.shared import add_store

    add_store(parser, snapshot=True)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a new or empty folder, or a URL")
    parser.add_argument(
        "--format", required=True, metavar="NAME", help="parquet, jsonl, csv, webdataset or npy"
    )
    parser.add_argument(
        "--rows-per-file",
        type=positive,
        metavar="N",
        help="rows (lines, samples) in each file but the last (default: as many as make about 256 MB)",
    )


def run(options: argparse.Namespace) -> int:
    """Writes the files and prints a summary."""
    from captionbeam.jobs.ui.summary import size
    from captionbeam.pipelines.maintenance.export import export
    from captionbeam.schemas import Store

    done = export(Store.open(options.store), options.output, options.format, options.rows_per_file)
    written = size(sum(part["bytes"] for part in done["files"]))
    print(
        f"{options.output}: {done['rows']:,} rows of snapshot {done['snapshot']} in {len(done['files']):,} "
        f"files, {written}"
    )
    return 0
