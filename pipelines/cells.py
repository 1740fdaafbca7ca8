"""Image bytes from Parquet: an image is a cell, and the smallest thing to read is a row group's column.

A row group's column is read once, by one byte range, and kept while the neighbours of its rows are asked for.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.reads import FetchOptions, Span, read_spans, too_large, with_retries
from pipelines.sources import access
from pipelines.sources.parquet import column_at
from pipelines.sources.trouble import image_error, raise_if_gone
from schemas.errors import ImageError, SourceError
from schemas.records import ImageRef

_BLOCK = 64 << 10  # footers are small
# Shards of about 1,024 rows share row groups: what a few of them need together stays, what is larger never.
_KEPT_BYTES = 256 << 20


class _Group(NamedTuple):
    uri: str
    file_version: str
    row_group: int
    column: str


def read_cells(refs: Sequence[ImageRef], options: FetchOptions) -> list[bytes | ImageError]:
    """The bytes of each row, in order; neighbours of one row group are cut from one read.

    Raises SourceError where the file itself is gone, SystemicError.
    """
    cells: list[bytes | ImageError] = []
    for group, members in groupby(refs, _group_of):
        column = _kept_column(group, options)
        cells.extend(_cell(column, ref, options) for ref in members)
    return cells


def _group_of(ref: ImageRef) -> _Group:
    return _Group(ref.uri, (ref.version or "").rpartition(":")[0], ref.offset, ref.column)


def _cell(column: pa.ChunkedArray | ImageError, ref: ImageRef, options: FetchOptions) -> bytes | ImageError:
    if isinstance(column, ImageError):
        return column
    where = ref.location
    if ref.length >= len(column):
        return ImageError("not_found", "fetch", f"{where}: the row group has {len(column)} rows")
    data = column[ref.length].as_py()
    if not data:
        return ImageError("empty", "fetch", f"{where}: the row holds no bytes")
    return data if len(data) <= options.max_bytes else too_large(where, options.max_bytes)


def _kept_column(group: _Group, options: FetchOptions) -> pa.ChunkedArray | ImageError:
    column = _kept.get(group)
    if column is None:
        column = _read_column(group, options)
        if not isinstance(column, ImageError):
            _kept.put(group, column)
    return column


def _read_column(group: _Group, options: FetchOptions) -> pa.ChunkedArray | ImageError:
    metadata = _read_footer(group, options)
    if isinstance(metadata, ImageError):
        return metadata
    span = _column_span(metadata, group)
    if span is None:
        return ImageError("not_found", "fetch", f"{group.uri}: has no such column and row group: {group}")
    raw = read_spans([span], options)[0]
    if isinstance(raw, ImageError):
        raise_if_gone(raw, group.uri)
        return raw
    try:
        parquet = pq.ParquetFile(pa.PythonFile(_Window(raw, span.start)), metadata=metadata)
        return column_at(parquet.read_row_group(group.row_group, columns=[group.column]), group.column)
    except (pa.ArrowException, OSError) as err:  # read from memory: this OSError is pyarrow's, of bad pages
        return ImageError("decode", "fetch", f"{group.uri}: row group {group.row_group} is damaged: {err}")


def _column_span(metadata: pq.FileMetaData, group: _Group) -> Span | None:
    if group.row_group >= metadata.num_row_groups:
        return None
    row_group = metadata.row_group(group.row_group)
    for i in range(row_group.num_columns):
        chunk = row_group.column(i)
        if chunk.path_in_schema == group.column:
            start = min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o is not None)
            return Span(group.uri, start, start + chunk.total_compressed_size)
    return None


def _read_footer(group: _Group, options: FetchOptions) -> pq.FileMetaData | ImageError:
    try:
        return with_retries(options)(_footer, group.uri, group.file_version)
    except pa.ArrowInvalid as err:
        raise SourceError(f"source {group.uri!r} is no longer a readable Parquet file: {err}") from err
    except Exception as err:  # noqa: BLE001 (image_error raises again what is not about input)
        failure = image_error(err, group.uri)
    raise_if_gone(failure, group.uri)
    return failure


@lru_cache(maxsize=32)
def _footer(uri: str, version: str) -> pq.FileMetaData:
    with access.open_stream(uri, _BLOCK) as stream:
        return pq.read_metadata(stream)


class _Window(io.RawIOBase):
    """The bytes ``raw`` of a larger file, which begin at ``start`` of it."""

    def __init__(self, raw: bytes, start: int) -> None:
        self._raw, self._start, self._position = memoryview(raw), start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._start + len(self._raw)
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: end}[whence]
        return self._position

    def readinto(self, buffer) -> int:
        begin = self._position - self._start
        piece = self._raw[begin : begin + len(buffer)] if begin >= 0 else b""
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


class _Columns:
    """The columns read last, by bytes; shared by the threads of a process."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes, self._lock = limit, 0, threading.Lock()
        self._columns: OrderedDict[_Group, pa.ChunkedArray] = OrderedDict()

    def get(self, group: _Group) -> pa.ChunkedArray | None:
        with self._lock:
            if group in self._columns:
                self._columns.move_to_end(group)
            return self._columns.get(group)

    def put(self, group: _Group, column: pa.ChunkedArray) -> None:
        with self._lock:
            if column.nbytes > self._limit or group in self._columns:
                return
            self._columns[group] = column
            self._bytes += column.nbytes
            while self._bytes > self._limit:
                self._bytes -= self._columns.popitem(last=False)[1].nbytes


_kept = _Columns(_KEPT_BYTES)
