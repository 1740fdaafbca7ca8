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
from captionbeam.schemas.formats import arrow, parquet
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


class Rewritten(NamedTuple):
    """The new shard's manifest row, and the new row numbers: (shard, row, failed) -> row."""

    manifest: ManifestRow
    moved: dict[tuple[str, int, bool], int]


def rewrite(url: str, snapshot: Snapshot, parts: Sequence[Part]) -> Rewritten | None:
    """Writes the rows of ``parts`` as one new shard, by row group. Returns None if there are no rows.

    The shard has a new id, because its row numbers change. It has no commit, so it is not mistaken for a shard of an
    interrupted run.
    """
    if not any(part.rows or part.failed for part in parts):
        return None
    shard = sha256_bytes(uuid.uuid4().bytes)[:40]
    name = f"{shard}-{uuid.uuid4().hex[:12]}"
    data = _write_data(url, snapshot, parts, name)
    failures = put_table(url, f"failures/{name}.parquet", _failures(url, parts), snapshot.fingerprint)
    index, moved = _index(url, parts)
    written = put_table(url, f"index/{name}.parquet", index, snapshot.fingerprint)
    return Rewritten(manifest_row(shard, data, failures, written), moved)


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
        table = parquet.read_table(files.join(url, "index", part.manifest["index"]))
        for failed, kept in ((False, part.rows), (True, part.failed)):
            ours = table.filter(pc.equal(table.column("failed"), failed)).sort_by("row")
            for row in cast(list[IndexRow], ours.take(pa.array(kept, pa.int64())).to_pylist()):
                moved[part.manifest["shard"], row["row"], failed] = len(rows[failed])
                rows[failed].append({**row, "row": len(rows[failed]), "replaces": ""})
    return pa.Table.from_pylist([*rows[False], *rows[True]], schema=arrow.INDEX), moved
