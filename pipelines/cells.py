"""Image bytes from Parquet: an image is a cell, and the smallest thing to read is a row group's column.

A row group's column is read once, by one byte range, and kept while the neighbours of its rows are asked for.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import addresses
from pipelines.reads import read_spans, too_large, with_retries
from pipelines.sources import access
from pipelines.sources.parquet import column_at, is_damage
from pipelines.sources.trouble import image_error, raise_if_gone
from pipelines.spans import FetchOptions, Span
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
    """pyarrow finds the column's pages itself: asked where they are, it aborts on a damaged footer."""
    footer = _read_footer(group, options)
    if isinstance(footer, ImageError):
        return footer
    if group.row_group >= footer.metadata.num_row_groups:
        return ImageError("not_found", "fetch", f"{group.uri}: has no row group {group.row_group}")
    stream = pa.PythonFile(_Spans(group.uri, footer.size, options), mode="r")
    try:
        parquet = pq.ParquetFile(stream, metadata=footer.metadata, pre_buffer=True)
        table = parquet.read_row_group(group.row_group, columns=[group.column])
        if not table.num_columns:
            return ImageError("not_found", "fetch", f"{group.uri}: has no column {group.column!r}")
        return column_at(table, group.column)
    except ImageError as err:
        raise_if_gone(err, group.uri)
        return err
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
        return ImageError("decode", "fetch", f"{group.uri}: row group {group.row_group} is damaged: {err}")


class _Footer(NamedTuple):
    metadata: pq.FileMetaData
    size: int


def _read_footer(group: _Group, options: FetchOptions) -> _Footer | ImageError:
    try:
        return with_retries(options)(_footer, group.uri, group.file_version)
    except Exception as err:  # image_error raises again what is not about input
        if isinstance(err, pa.ArrowException | OSError) and is_damage(err):
            raise SourceError(f"source {group.uri!r} is no longer a readable Parquet file: {err}") from err
        failure = image_error(err, group.uri)
    raise_if_gone(failure, group.uri)
    return failure


@lru_cache(maxsize=32)
def _footer(uri: str, version: str) -> _Footer:
    with access.open_stream(uri, _BLOCK) as stream:
        return _Footer(pq.read_metadata(stream), stream.seek(0, io.SEEK_END))


class _Spans(io.RawIOBase):
    """A file of ``size`` bytes whose every read is one span, with its tries and its time limit."""

    def __init__(self, url: str, size: int, options: FetchOptions) -> None:
        self._url, self._size, self._position = url, size, 0
        named = addresses.origins([url])  # the file is a source
        self._options = replace(options, allow_private=True, trusted=named)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Raises ImageError."""
        end = self._size if size < 0 else min(self._position + size, self._size)
        if end <= self._position:
            return b""
        data = read_spans([Span(self._url, self._position, end)], self._options)[0]
        if isinstance(data, ImageError):
            raise data
        self._position += len(data)
        return data


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
