"""Data files in Parquet: written as a stream, read by row group."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from captionbeam.schemas.formats import arrow
from captionbeam.schemas.records import WrittenFile
from captionbeam.schemas.storage import files
from captionbeam.schemas.storage.object_stores import as_os_errors, discard

GROUP_BYTES = 8 << 20
MAX_GROUP_ROWS = 4096


class HashingStream:
    """A writable stream that counts and hashes the bytes written through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream: BinaryIO | None = stream
        self._digest = hashlib.sha256()
        self.closed, self.bytes = False, 0

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        self._digest.update(view)
        self.bytes += view.nbytes
        if self._stream is not None:
            self._stream.write(view)
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def forget(self) -> None:
        """Stops forwarding writes. Arrow writes a footer even to an aborted file."""
        self._stream = None

    def close(self) -> None:
        self.closed = True

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def rows_per_group(schema: pa.Schema) -> int:
    """Returns the number of rows in a row group of about 8 MiB of grids, small enough for random access."""
    width: int = sum(field.type.byte_width for field in schema if arrow.is_grid(field))
    return max(1, min(MAX_GROUP_ROWS, GROUP_BYTES // max(width, 1)))


class ParquetWriter:
    """Writes one data file: ``write`` batches, then ``close``, which returns the file's record, or ``abort``."""

    def __init__(self, url: str, schema: pa.Schema) -> None:
        self._fs, self._path = files.split(url)
        if files.is_local(self._fs):
            self._fs.makedirs(self._fs._parent(self._path), exist_ok=True)
        self._schema, self._name = schema, url.rsplit("/", 1)[-1]
        with as_os_errors(self._path):
            self._raw = self._fs.open(self._path, "wb")
        self._stream = HashingStream(self._raw)
        grids = [field.name for field in schema if arrow.is_grid(field)]
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._stream, mode="w"),
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[field.name for field in schema if field.name in ("source", "code", "stage")],
            write_statistics=[field.name for field in schema if field.name not in grids],
        )
        self._group_rows = rows_per_group(schema)
        self._held: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Adds rows. Complete row groups are written to the stream."""
        self._rows += batch.num_rows
        self._held.append(batch)
        while sum(held.num_rows for held in self._held) >= self._group_rows:
            self._flush(self._group_rows)

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches(self._held, schema=self._schema)
        with as_os_errors(self._path):
            self._writer.write_table(table.slice(0, rows), row_group_size=rows)
        self._held = table.slice(rows).to_batches()

    def close(self) -> WrittenFile:
        """Finishes the file. Raises OSError if a write fails."""
        rest = sum(held.num_rows for held in self._held)
        if rest:
            self._flush(rest)
        with as_os_errors(self._path):
            self._writer.close()
            self._raw.flush()
            if files.is_local(self._fs):  # must be on the disk before the commit that names it
                os.fsync(self._raw.fileno())
            self._raw.close()
        return WrittenFile(self._name, self._stream.bytes, self._stream.sha256, self._rows)

    def abort(self) -> None:
        """Discards the unfinished file."""
        self._stream.forget()
        discard(self._fs, self._path, self._raw)


class ParquetData:
    """Reads one data file by row group."""

    def __init__(self, url: str) -> None:
        fs, path = files.split(url)
        if files.is_local(fs):
            self._file = pq.ParquetFile(path, memory_map=True)
        else:
            self._file = pq.ParquetFile(fs.open(path, "rb", cache_type="none"), pre_buffer=True)
        self.schema: pa.Schema = self._file.schema_arrow
        arrow.check_version(self.schema.metadata, url)

    @property
    def group_rows(self) -> list[int]:
        """Rows per row group."""
        metadata = self._file.metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def read(self, group: int, columns: Sequence[str]) -> pa.RecordBatch:
        """Returns one row group, with grids as FixedSizeBinary."""
        table = self._file.read_row_group(group, columns=list(columns), use_threads=False)
        schema = pa.schema([self.schema.field(name) for name in columns], self.schema.metadata)
        arrays = [_whole(table.column(name)) for name in columns]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def close(self) -> None:
        self._file.close()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def table_bytes(table: pa.Table, row_group_size: int | None = None) -> bytes:
    """Returns ``table`` as the content of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
    return bytes(sink.getvalue())


def read_table(url: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a small Parquet file as a whole. Raises FileNotFoundError, and StoreError for files of a newer version."""
    table = pq.read_table(pa.BufferReader(files.read_bytes(url)), columns=columns)
    arrow.check_version(table.schema.metadata, url)
    return table
