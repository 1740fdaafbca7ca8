"""``store export``: writes the live rows of a snapshot as files for other tools."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.store_commands.shared import store_option
from captionbeam.jobs.ui.summary import size
from captionbeam.jobs.ui.terminal import say
from captionbeam.pipelines.maintenance.file_writers import FORMATS
from captionbeam.schemas import Store
from captionbeam.schemas.counts import counted
from captionbeam.schemas.options import POSITIVE, one_of, option, text

_FORMATS = "\n".join(f"  {name:10}  {said}" for name, said in FORMATS.items())


@dataclass(frozen=True, kw_only=True)
class ExportSnapshot(Command):
    """Writes the live rows of a snapshot as files for other tools."""

    HELP = f"""\
  captionbeam store export captions --output captions-2026-12 --format jsonl
  captionbeam store export features@prod --output /data/grids --format npy

Writes the live rows of a snapshot of STORE to a new or empty folder, which appears only when it is complete. Superseded
and deleted rows, and failures, are left out.

{_FORMATS}

parquet, jsonl and csv have _schema.json beside them, in BigQuery's format:

  bq load --source_format=NEWLINE_DELIMITED_JSON SET.TABLE 'gs://BUCKET/OUTPUT/part-*.jsonl' _schema.json
"""
    name = "store export"

    store: str = store_option(snapshot=True)
    output: str = option(..., "a new or empty folder, or a URL", text("FOLDER"))
    format: str = option(..., ", ".join(FORMATS), one_of(*FORMATS))
    rows_per_file: int | None = option(
        None, "rows (lines, samples) in each file but the last (default: about 256 MB)", POSITIVE
    )

    def execute(self) -> Result:
        """Writes the files and prints a summary; the totals are the export's record."""
        from captionbeam.pipelines.maintenance.export import export

        done = export(Store.open(self.store), self.output, self.format, self.rows_per_file)
        written = size(sum(part["bytes"] for part in done["files"]))
        say(
            f"{self.output}: {counted(done['rows'], 'row')} of snapshot {done['snapshot']} in "
            f"{counted(len(done['files']), 'file')}, {written}"
        )
        return Result(totals=done, output=self.output)
