"""Writes selected rows of some shards as one new shard, for compaction and purging."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from os.path import splitext
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats import arrow, parquet
from captionbeam.schemas.formats.datafile import DataWriter, open_data, open_writer, read_rows
from captionbeam.schemas.records import WrittenFile
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.layout import Snapshot


class Part(NamedTuple):
    """The rows to take from one shard: its manifest row, and ascending row numbers of data and failures."""

    manifest: dict[str, Any]
    rows: Sequence[int]
    failed: Sequence[int]


class Rewritten(NamedTuple):
    """The new shard's manifest row, and the new row numbers: (shard, row, failed) -> row."""

    manifest: dict[str, Any]
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
    failures = _put(url, "failures", name, snapshot, _failures(url, parts))
    index, moved = _index(url, parts)
    written = _put(url, "index", name, snapshot, index)
    manifest = {
        "shard": shard,
        "data": data.name,
        "failures": failures.name,
        "index": written.name,
        "rows": data.rows,
        "failed": failures.rows,
        "bytes": data.bytes + failures.bytes + written.bytes,
        "data_sha256": data.sha256,
        "failures_sha256": failures.sha256,
        "index_sha256": written.sha256,
    }
    return Rewritten(manifest, moved)


def totals_of(manifest: Sequence[dict[str, Any]], deletes: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Returns a snapshot's totals."""
    gone = sum(delete["failed"] for delete in deletes)
    return {
        "rows": sum(row["rows"] for row in manifest) - (len(deletes) - gone),
        "failed": sum(row["failed"] for row in manifest) - gone,
        "bytes": sum(row["bytes"] for row in manifest),
        "shards": len(manifest),
        "deleted": len(deletes),
    }


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
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    moved: dict[tuple[str, int, bool], int] = {}
    for part in parts:
        table = parquet.read_table(files.join(url, "index", part.manifest["index"]))
        for failed, kept in ((False, part.rows), (True, part.failed)):
            ours = table.filter(pc.equal(table.column("failed"), failed)).sort_by("row")
            for row in ours.take(pa.array(kept, pa.int64())).to_pylist():
                moved[part.manifest["shard"], row["row"], failed] = len(rows[failed])
                rows[failed].append({**row, "row": len(rows[failed]), "replaces": ""})
    return pa.Table.from_pylist([*rows[False], *rows[True]], schema=arrow.INDEX), moved


def _put(url: str, folder: str, name: str, snapshot: Snapshot, table: pa.Table) -> WrittenFile:
    stamped = table.replace_schema_metadata(arrow.stamp(table.schema, folder, snapshot.fingerprint).metadata)
    data = parquet.table_bytes(stamped)
    files.write_atomic(files.join(url, folder, f"{name}.parquet"), data)
    return WrittenFile(f"{name}.parquet", len(data), sha256_bytes(data), table.num_rows)
