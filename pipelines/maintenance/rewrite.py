"""Writes selected rows of some shards as one new shard, for compaction and purging."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from os.path import splitext
from typing import NamedTuple, cast

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats import arrow, kept, parquet
from captionbeam.schemas.formats.datafile import DataWriter, open_data, open_writer, read_rows
from captionbeam.schemas.records import WrittenFile
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.layout import Snapshot
from captionbeam.schemas.store.rows import (
    DeleteRow,
    IndexRow,
    ManifestRow,
    manifest_row,
    put_table,
    totals_of,
    write_lists,
)


class Part(NamedTuple):
    """The rows to take from one shard: its manifest row, and ascending row numbers of data and failures."""

    manifest: ManifestRow
    rows: Sequence[int]
    failed: Sequence[int]


class NewShard(NamedTuple):
    """The new shard's manifest row, and the new row numbers: (shard, row, failed) -> row."""

    manifest: ManifestRow
    moved: dict[tuple[str, int, bool], int]


def rewrite(url: str, snapshot: Snapshot, parts: Sequence[Part]) -> NewShard | None:
    """Writes the rows of ``parts`` as one new shard, with their kept columns. Returns None if there are no rows.

    The shard has a new id, because its row numbers change. It has no commit, so it is not mistaken for a shard of an
    interrupted run.
    """
    made = rewrite_rows(url, snapshot, parts)
    return made and made._replace(manifest=with_columns(url, snapshot, parts, made.manifest))


def rewrite_rows(url: str, snapshot: Snapshot, parts: Sequence[Part]) -> NewShard | None:
    """Like ``rewrite``, without kept columns."""
    if not any(part.rows or part.failed for part in parts):
        return None
    shard = sha256_bytes(uuid.uuid4().bytes)[:40]
    name = f"{shard}-{uuid.uuid4().hex[:12]}"
    data = _write_data(url, snapshot, parts, name)
    failures = put_table(url, f"failures/{name}.parquet", _failures(url, parts), snapshot.fingerprint)
    index, moved = _index(url, parts)
    written = put_table(url, f"index/{name}.parquet", index, snapshot.fingerprint)
    return NewShard(manifest_row(shard, data, failures, written), moved)


def with_columns(url: str, snapshot: Snapshot, parts: Sequence[Part], made: ManifestRow) -> ManifestRow:
    """Writes the kept columns of ``parts``, if they have any, for the new shard ``made``. Returns its manifest row.

    The file has the types of the snapshot.
    """
    if all(part.manifest["columns"] is None for part in parts):
        return made
    tables = [_columns(url, part, failed) for failed in (False, True) for part in parts]
    schema, exif = kept.without_nulls(kept.schema_of(snapshot.kept)), kept.schema_of(snapshot.exif)
    rows = pa.concat_tables([table.select([field.name for field in kept.ROW]) for table in tables])
    values = pa.chunked_array([kept.values_in(table, schema) for table in tables])
    table = rows.append_column(pa.field(kept.VALUES, values.type, nullable=False), values)
    if len(exif):
        table = kept.with_exif(table, pa.chunked_array([kept.exif_in(one, exif) for one in tables]))
    name = f"{made['shard']}-{uuid.uuid4().hex[:12]}.parquet"
    written = put_table(url, f"columns/{name}", table, snapshot.fingerprint)
    size = made["bytes"] + written.bytes
    return {**made, "bytes": size, "columns": written.name, "columns_sha256": written.sha256}


def with_lists(
    url: str, snapshot: Snapshot, prefix: str, manifest: Sequence[ManifestRow], deletes: Sequence[DeleteRow]
) -> Snapshot:
    """Returns ``snapshot`` with one new manifest and at most one new delete file, whose names start with ``prefix``."""
    manifests, deleted = write_lists(url, f"{prefix}-{uuid.uuid4().hex[:12]}.parquet", manifest, deletes)
    totals = {**snapshot.totals, **totals_of(manifest, deletes)}
    return dataclasses.replace(snapshot, manifests=manifests, deletes=deleted, totals=totals)


def _write_data(url: str, snapshot: Snapshot, parts: Sequence[Part], name: str) -> WrittenFile:
    writer: DataWriter | None = None
    try:
        for part in parts:
            for batch in _kept_rows(url, part):
                if writer is None:
                    columns = pa.schema(
                        [field for field in batch.schema if field.name not in arrow.IDENTITY_NAMES]
                    )
                    schema = arrow.row_schema(columns, snapshot.kind, snapshot.fingerprint)
                    suffix = splitext(part.manifest["data"])[1]
                    writer = open_writer(files.join(url, "data", name + suffix), schema)
                writer.write(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        return writer.close() if writer is not None else WrittenFile("", 0, sha256_bytes(b""), 0)
    except BaseException:  # Ctrl-C too: removes the partial file and raises again
        if writer is not None:
            writer.abort()
        raise


def _kept_rows(url: str, part: Part) -> Iterator[pa.RecordBatch]:
    """Yields the kept rows of a part as stored, by row group."""
    if part.rows:
        with closing(open_data(files.join(url, "data", part.manifest["data"]))) as data:
            yield from (batch for _, batch in read_rows(data, part.rows))


def _failures(url: str, parts: Sequence[Part]) -> pa.Table:
    tables = [arrow.FAILURES.empty_table()]
    for part in parts:
        if part.failed:
            table = parquet.read_table(files.join(url, "failures", part.manifest["failures"]))
            tables.append(table.take(pa.array(part.failed)).replace_schema_metadata(None))
    return pa.concat_tables(tables)


def _index(url: str, parts: Sequence[Part]) -> tuple[pa.Table, dict[tuple[str, int, bool], int]]:
    """Returns the kept index rows, renumbered, data first, without ``replaces``; and the map of row numbers."""
    rows: dict[bool, list[IndexRow]] = {False: [], True: []}
    moved: dict[tuple[str, int, bool], int] = {}
    for part in parts:
        for failed in (False, True):
            for row in cast(list[IndexRow], _index_rows(url, part, failed).to_pylist()):
                moved[part.manifest["shard"], row["row"], failed] = len(rows[failed])
                rows[failed].append({**row, "row": len(rows[failed]), "replaces": ""})
    return pa.Table.from_pylist([*rows[False], *rows[True]], schema=arrow.INDEX), moved


def _index_rows(url: str, part: Part, failed: bool) -> pa.Table:
    """Returns the index rows of the kept data rows, or of the kept failures."""
    table = parquet.read_table(files.join(url, "index", part.manifest["index"]))
    ours = table.filter(pc.equal(table.column("failed"), failed)).sort_by("row")
    return ours.take(pa.array(part.failed if failed else part.rows, pa.int64()))


def _columns(url: str, part: Part, failed: bool) -> pa.Table:
    """Returns the columns file of the kept data rows, or failures, of a part; without values if it has none."""
    name = part.manifest["columns"]
    if name is None:
        rows = _index_rows(url, part, failed)
        empty = pa.array([""] * rows.num_rows, pa.string())
        return pa.table([rows.column("image_id"), rows.column("failed"), empty, empty], pa.schema(kept.ROW))
    at = [part.manifest["rows"] + row for row in part.failed] if failed else list(part.rows)
    table = parquet.read_table(files.join(url, "columns", name))
    return table.take(pa.array(at, pa.int64())).replace_schema_metadata(None)
