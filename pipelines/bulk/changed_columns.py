"""RewriteColumns: writes the kept columns of rows that are done already, where the listing has other values for them.

A shard's data, failures and index stay. Its columns file is written anew, and a record below the run's plan names it,
created if absent; publishing gives the shard a manifest row with the new file.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Optional, cast

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.pvalue import AsList, PCollection

from captionbeam.pipelines.bulk.kept_schema import kept_schema
from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.formats import arrow, parquet
from captionbeam.schemas.formats.kept import (
    HASH,
    TEXT,
    VALUES,
    columns_hash,
    combined,
    kinds_in,
    merged,
    selected,
    struct_of,
    table_of,
    unpacked,
    without_nulls,
)
from captionbeam.schemas.records import WrittenFile, parse_address
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.rows import ManifestRow, manifest_table, put_table

FOLDER, READERS = "columns", 16


class Change(NamedTuple):
    """A row of the store, by its address, and its image's kept columns in the listing, as text."""

    address: str
    columns: str


class RewrittenColumns(NamedTuple):
    """A shard whose columns file a run has written anew.

    ``replaces``: the name of the former columns file, if there was one, and ``replaced_bytes`` its size. ``images``:
    the number of rows and failures with other values than before.
    """

    shard: str
    columns: str
    sha256: str
    bytes: int
    images: int
    replaces: Optional[str] = None
    replaced_bytes: int = 0

    def of(self, row: ManifestRow) -> ManifestRow | None:
        """Returns a shard's manifest row with the new columns; None if it has others than those that they replace."""
        if row["columns"] != self.replaces:
            return None
        size = row["bytes"] - self.replaced_bytes + self.bytes
        return {**row, "columns": self.columns, "columns_sha256": self.sha256, "bytes": size}


class RewriteColumns(beam.PTransform[PCollection[Change], PCollection[str]]):
    """Takes changes, returns one element for each shard whose columns are written.

    ``after``: a collection that is complete once the types of the run's kept columns are written.
    """

    def __init__(self, run: Run, after: PCollection[object]) -> None:
        super().__init__()
        self._run, self._after = run, after

    def expand(self, changes: PCollection[Change]) -> PCollection[str]:
        rewrite = beam.Map(across_workers(_rewrite), AsList(self._after), run=self._run)
        return (
            changes
            | "KeyByShard" >> beam.Map(lambda change: (change[0].split("/")[0], (change[0], change[1])))
            | "GroupByShard" >> beam.GroupByKey()
            | "WriteColumns" >> rewrite.with_output_types(str)
        )


def _rewrite(group: tuple[str, Iterable[tuple[str, str]]], _: list[object], run: Run) -> str:
    shard, changes = group
    return rewrite_columns(run, shard, [Change(*change) for change in changes])


def rewrite_columns(run: Run, shard: str, changes: Iterable[Change]) -> str:
    """Writes a shard's columns with the ``changes``, and their record if it does not exist yet. Returns its URL."""
    url = files.join(run.folder, FOLDER, f"{shard}.json")
    if files.exists(url):
        return url
    row = _base_row(run, shard)
    before, size = _columns_before(run, row)
    texts = {_position(change.address, row["rows"]): change.columns for change in changes}
    written = _write(run, shard, with_changes(before, texts, kept_schema(run), run.operation != "refresh"))
    about = RewrittenColumns(
        shard, written.name, written.sha256, written.bytes, len(texts), row["columns"], size
    )
    files.create(url, files.json_bytes(about._asdict()))
    return url


def with_changes(before: pa.Table, texts: dict[int, str], types: pa.Schema, adds: bool = False) -> pa.Table:
    """Returns a columns file with other values in some of its rows: ``texts`` by row number.

    ``types``: names and types of the run's kept columns. These rows lose other columns, unless the run only ``adds``. A
    column that is not among ``types`` is left out if no row has a value of it any more.
    """
    now, hashes = before.column(TEXT).to_pylist(), before.column(HASH).to_pylist()
    for row, text in texts.items():
        own = selected(now[row], [name for name in unpacked(now[row]) if name not in types.names])
        now[row] = combined(own, text) if adds else text
        hashes[row] = columns_hash(text)
    there = {name for text in now for name in unpacked(text)}
    schema = pa.schema(
        [
            field
            for field in merged(types, kinds_in(before))
            if field.name in there or field.name in types.names
        ]
    )
    values = struct_of(now, without_nulls(schema))
    columns = dict(zip(before.column_names, before.columns, strict=True))
    columns |= {HASH: pa.array(hashes, pa.string()), TEXT: pa.array(now, pa.string()), VALUES: values}
    written = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    return pa.table(list(columns.values()), pa.schema(written, before.schema.metadata))


def read_rewritten(run: Run) -> list[RewrittenColumns]:
    """Returns the shards whose columns the run has written anew."""
    folder = files.join(run.folder, FOLDER)
    with ThreadPoolExecutor(READERS) as pool:
        records = pool.map(lambda name: files.read_json(files.join(folder, name)), files.names(folder))
        return [RewrittenColumns(**record) for record in records]


def _position(address: str, rows: int) -> int:
    """Returns the row of a columns file: those of data come first, then those of failures."""
    _, row, failed = parse_address(address)
    return rows + row if failed else row


def _columns_before(run: Run, row: ManifestRow) -> tuple[pa.Table, int]:
    """Returns a shard's columns, which are without values where it has none, and the size of their file."""
    if row["columns"] is not None:
        data = files.read_bytes(files.join(run.url, "columns", row["columns"]))
        table = pq.read_table(pa.BufferReader(data))
        arrow.check_version(table.schema.metadata, row["columns"])
        return table, len(data)
    index = parquet.read_table(files.join(run.url, "index", row["index"]), ["image_id", "failed"])
    named = zip(*(index.column(name).to_pylist() for name in ("image_id", "failed")), strict=True)
    return table_of(((image_id, failed, "") for image_id, failed in named), pa.schema([])), 0


def _write(run: Run, shard: str, table: pa.Table) -> WrittenFile:
    path = f"columns/{shard}-{uuid.uuid4().hex[:12]}.parquet"
    return put_table(run.url, path, table, run.fingerprint)


def _base_row(run: Run, shard: str) -> ManifestRow:
    table = _base_table(run.url, run.base, run.folder)
    (row,) = table.filter(pc.equal(table.column("shard"), shard)).to_pylist()
    return cast(ManifestRow, row)


@functools.lru_cache(maxsize=2)
def _base_table(url: str, base: int | None, folder: str) -> pa.Table:
    """Returns the manifest of a run's base: that of the snapshot ``base``, then the adopted shards."""
    published = () if base is None else layout.load_snapshot(url, base).manifests
    return pa.concat_tables([manifest_table(url, published), manifest_table(folder, ["base.parquet"])])
