"""Exports the live rows of a snapshot for other tools, streamed by row group. The output appears as a whole."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from captionbeam.pipelines.bulk.run import check_no_snapshot
from captionbeam.pipelines.maintenance import tables
from captionbeam.pipelines.maintenance.file_writers import (
    FORMATS,
    TABLE_WRITERS,
    FileWriter,
    NpyWriter,
    Part,
    TarWriter,
)
from captionbeam.schemas.errors import RequestError, SystemicError
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.layout import now
from captionbeam.schemas.store.reading import Store

FILE_BYTES = 256 << 20
MOST_ROWS = 100_000


def _check_format(store: Store, file_format: str) -> None:
    """Raises RequestError if the format cannot hold the store's rows."""
    if file_format not in FORMATS:
        raise RequestError(f"unknown format {file_format!r}; expected one of {', '.join(FORMATS)}")
    if file_format == "npy" and not store.shape:
        raise RequestError("npy holds numbers, no captions; expected parquet, jsonl, csv or webdataset")
    if file_format == "csv" and len(store.shape) > 1:
        raise RequestError("csv has no columns for grids; expected parquet, jsonl, webdataset or npy")


def export(store: Store, output: str, file_format: str, rows_per_file: int | None = None) -> dict[str, Any]:
    """Writes the live rows of ``store`` below ``output``. Returns the export's record, which is written last.

    Raises RequestError if the format cannot hold the rows or the output is not empty.
    """
    _check_format(store, file_format)
    output = files.absolute(output)
    check_no_snapshot(output)
    with _appearing(output) as folder:
        rows = 0

        def counted() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for batch in store.scan():
                rows += batch.num_rows
                yield batch

        each = rows_per_file or _rows_per_file(store)
        parts = [part._asdict() for part in _write(store, counted(), folder, file_format, each)]
        if rows != store.count():
            raise SystemicError(
                f"{store.url} gave {rows} rows; expected the {store.count()} of its snapshot "
                f"{store.snapshot_id} (captionbeam store verify says what is wrong)"
            )
        record = {
            "store": store.url,
            "snapshot": store.snapshot_id,
            "kind": store.kind,
            "column": store.column,
            "columns": list(store.columns),
            "kept": store.kept.names,
            "shape": list(store.shape),
            "fingerprint": store.fingerprint,
            "format": file_format,
            "rows": rows,
            "time": now(),
            "files": parts,
        }
        files.write_atomic(files.join(folder, tables.RECORD), files.json_bytes(record))
    return record


def _write(
    store: Store, scanned: Iterable[pa.RecordBatch], folder: str, file_format: str, rows_per_file: int
) -> Iterator[Part]:
    if file_format == "npy":
        writer = NpyWriter(folder, store.column, store.shape, store.count())
        for batch in scanned:
            writer.write(tables.with_json_values(batch, store.kept.names))
        yield from writer.finish()
        return
    suffix, batches = file_format, scanned
    if file_format == "webdataset":
        suffix = "tar"
        batches = (tables.with_json_values(batch, store.kept.names) for batch in scanned)

        def open_writer(url: str, first: int) -> FileWriter:
            return TarWriter(url, store.column, first)
    else:
        schema = tables.export_schema(store, file_format)
        columns = files.json_bytes(tables.bigquery_schema(schema))
        files.write_atomic(files.join(folder, tables.SCHEMA), columns)
        batches = (tables.export_batch(batch, store, schema, file_format) for batch in scanned)

        def open_writer(url: str, first: int) -> FileWriter:
            return TABLE_WRITERS[file_format](url, schema)

    yield from _in_parts(
        batches, rows_per_file, lambda number: files.join(folder, f"part-{number:05d}.{suffix}"), open_writer
    )


def _in_parts(
    batches: Iterable[pa.RecordBatch],
    rows_per_file: int,
    name_of: Callable[[int], str],
    open_writer: Callable[[str, int], FileWriter],
) -> Iterator[Part]:
    """Writes all rows, ``rows_per_file`` in each file but the last; one empty file if there are no rows.

    ``open_writer`` takes a file's URL and its first row's number.
    """
    writer: FileWriter | None = None
    number = 0
    for batch in batches:
        rest = batch
        while rest.num_rows:
            writer = writer or open_writer(name_of(number), number * rows_per_file)
            piece = rest.slice(0, rows_per_file - writer.rows)
            writer.write(piece)
            rest = rest.slice(piece.num_rows)
            if writer.rows == rows_per_file:
                yield writer.close()
                writer, number = None, number + 1
    if writer is not None or not number:
        yield (writer or open_writer(name_of(0), 0)).close()


def _rows_per_file(store: Store) -> int:
    """Returns the rows per file for files of about 256 MB of float16."""
    return max(1, min(MOST_ROWS, FILE_BYTES // (2 * math.prod(store.shape)))) if store.shape else MOST_ROWS


@contextlib.contextmanager
def _appearing(output: str) -> Iterator[str]:
    """Yields a temporary folder that is renamed to ``output`` at the end, or removed after an error.

    Object stores cannot rename folders, so there the files are moved one by one, the record last.
    """
    fs, path = files.split(output)
    if fs.isfile(path) or files.names(output):
        raise RequestError(f"{output} holds something already; expected a new or empty folder")
    head, _, name = output.rpartition("/")
    staging = f"{head}/.{name}.{uuid.uuid4().hex[:12]}.tmp"
    staging_path = files.split(staging)[1]
    try:
        fs.makedirs(staging_path, exist_ok=True)
        yield staging
        if files.is_local(fs):
            os.rename(staging_path, path)
        else:
            _move(staging, output)
    finally:
        if files.is_local(fs):
            shutil.rmtree(staging_path, ignore_errors=True)
        elif fs.exists(staging_path):
            files.remove(staging)


def _move(staging: str, output: str) -> None:
    fs, _ = files.split(output)
    for name in sorted(files.names(staging), key=lambda name: (name == tables.RECORD, name)):
        before, after = (files.split(files.join(folder, name))[1] for folder in (staging, output))
        fs.cp_file(before, after)  # fsspec's mv treats brackets in a path as a pattern
        fs.rm_file(before)
