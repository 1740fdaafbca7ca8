"""Rows of a store's tables: index, failures, manifests, delete files. ``formats.arrow`` has their schemas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypedDict, cast

import pyarrow as pa

from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats import arrow, parquet
from captionbeam.schemas.records import WrittenFile, parse_address
from captionbeam.schemas.storage import files

FOLDERS = ("data", "failures", "index", "columns")  # of a shard's files


class IdentityRow(TypedDict):
    """The columns that all rows of an image have."""

    image_id: str
    uri: str
    version: str | None
    source: str


class FailureRow(IdentityRow):
    """One image that could not be processed."""

    stage: str
    code: str
    message: str


class IndexRow(IdentityRow):
    """Row ``row`` of a shard's data file, or of its failures. ``content`` is the SHA-256 of the image's bytes."""

    row: int
    failed: bool
    code: str | None
    content: str | None
    replaces: str


class ManifestRow(TypedDict):
    """One shard: the names and hashes of its files, their rows and total size in bytes.

    ``columns`` has the kept columns of its rows; None if it has none.
    """

    shard: str
    data: str
    failures: str
    index: str
    rows: int
    failed: int
    bytes: int
    data_sha256: str
    failures_sha256: str
    index_sha256: str
    columns: str | None
    columns_sha256: str | None


class DeleteRow(TypedDict):
    """One superseded or deleted row of a shard."""

    shard: str
    row: int
    failed: bool
    image_id: str
    reason: str


def manifest_row(
    shard: str,
    data: WrittenFile,
    failures: WrittenFile,
    index: WrittenFile,
    columns: WrittenFile | None = None,
) -> ManifestRow:
    """Returns the manifest row of a shard with these files."""
    return {
        "shard": shard,
        "data": data.name,
        "failures": failures.name,
        "index": index.name,
        "rows": data.rows,
        "failed": failures.rows,
        "bytes": data.bytes + failures.bytes + index.bytes + (columns.bytes if columns else 0),
        "data_sha256": data.sha256,
        "failures_sha256": failures.sha256,
        "index_sha256": index.sha256,
        "columns": columns.name if columns else None,
        "columns_sha256": columns.sha256 if columns else None,
    }


def without_columns(row: ManifestRow) -> tuple[object, ...]:
    """Returns what all manifest rows of one shard have in common, whatever its kept columns."""
    return tuple(value for name, value in row.items() if name not in ("bytes", "columns", "columns_sha256"))


def files_of(row: ManifestRow) -> list[tuple[str, str]]:
    """Returns path in the store and SHA-256 of a shard's files. A shard whose images all failed has no data file."""
    paths = [
        (f"data/{row['data']}", row["data_sha256"]),
        (f"failures/{row['failures']}", row["failures_sha256"]),
        (f"index/{row['index']}", row["index_sha256"]),
    ]
    if row["columns"] is not None and row["columns_sha256"] is not None:
        paths.append((f"columns/{row['columns']}", row["columns_sha256"]))
    return paths if row["data"] else paths[1:]


def delete_row(address: str, image_id: str, reason: str) -> DeleteRow:
    """Returns the row of a delete file for the row at ``address``."""
    shard, row, failed = parse_address(address)
    return {"shard": shard, "row": row, "failed": failed, "image_id": image_id, "reason": reason}


def totals_of(manifest: Iterable[ManifestRow], deletes: Iterable[DeleteRow]) -> dict[str, int]:
    """Returns a snapshot's totals: live rows, failures, bytes, shards, deleted rows."""
    totals = Counter(rows=0, failed=0, bytes=0, shards=0, deleted=0)
    for shard in manifest:
        totals.update(rows=shard["rows"], failed=shard["failed"], bytes=shard["bytes"], shards=1)
    for delete in deletes:
        totals["failed" if delete["failed"] else "rows"] -= 1
        totals["deleted"] += 1
    return dict(totals)


def read_tables(url: str, names: Iterable[str], schema: pa.Schema) -> pa.Table:
    """Returns the rows of several manifests or delete files of the store at ``url`` as one table."""
    tables = [parquet.read_table(files.join(url, name)).replace_schema_metadata(None) for name in names]
    return pa.concat_tables([schema.empty_table(), *tables], promote_options="default")


def manifest_table(url: str, names: Iterable[str]) -> pa.Table:
    """Returns the rows of several manifests (``formats.arrow.MANIFEST``), one row per shard.

    Of several rows of a shard, which differ in the kept columns, the last one counts.
    """
    table = read_tables(url, names, arrow.MANIFEST)
    last = {shard: row for row, shard in enumerate(table.column("shard").to_pylist())}
    return table if len(last) == table.num_rows else table.take(pa.array(last.values()))


def read_manifest(url: str, names: Iterable[str]) -> list[ManifestRow]:
    """Returns the rows of ``manifest_table``."""
    return cast(list[ManifestRow], manifest_table(url, names).to_pylist())


def read_manifests(url: str, names: Iterable[str]) -> list[ManifestRow]:
    """Returns all rows of several manifests, also those in whose place a later one counts."""
    return cast(list[ManifestRow], read_tables(url, names, arrow.MANIFEST).to_pylist())


def read_deletes(url: str, names: Iterable[str]) -> list[DeleteRow]:
    """Returns the rows of several delete files."""
    return cast(list[DeleteRow], read_tables(url, names, arrow.DELETES).to_pylist())


def write_lists(
    url: str, name: str, manifest: Iterable[ManifestRow] | None, deletes: Iterable[DeleteRow]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Writes a manifest (unless None) and a delete file (unless empty), both called ``name``. Returns their paths."""
    deleted = list(deletes)
    if manifest is not None:
        put_table(url, f"manifests/{name}", pa.Table.from_pylist(list(manifest), arrow.MANIFEST))
    if deleted:
        put_table(url, f"deletes/{name}", pa.Table.from_pylist(deleted, arrow.DELETES))
    return () if manifest is None else (f"manifests/{name}",), (f"deletes/{name}",) if deleted else ()


def put_table(url: str, path: str, table: pa.Table, fingerprint: str = "") -> WrittenFile:
    """Writes ``table`` to ``path`` in the store at ``url``. Returns the file's record."""
    name, kind = path.rsplit("/", 1)[-1], path.split("/", 1)[0]
    stamped = table.replace_schema_metadata(arrow.stamp(table.schema, kind, fingerprint).metadata)
    data = parquet.table_bytes(stamped)
    files.write_atomic(files.join(url, path), data)
    return WrittenFile(name, len(data), sha256_bytes(data), table.num_rows)
