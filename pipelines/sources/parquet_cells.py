"""Reads image bytes from Parquet. An image is a cell, and cells are read in order from the start of their row group.

A row group is thus read once if its rows are requested in order. Cells of a small row group are all kept for later
requests. Of a large row group, only cells that were read but not requested are kept; its shards are processed one
after another (``captionbeam.pipelines.bulk.plan.sequences``).
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from captionbeam.pipelines.fetch import address_guard
from captionbeam.pipelines.fetch.byte_ranges import ByteRange, FetchOptions
from captionbeam.pipelines.fetch.errors import image_error, raise_if_gone
from captionbeam.pipelines.fetch.http import too_large
from captionbeam.pipelines.fetch.reads import read_ranges, with_retries
from captionbeam.pipelines.sources import access
from captionbeam.pipelines.sources.parquet import LARGE_GROUP, bytes_per_row, column_at, is_damage
from captionbeam.schemas.errors import ImageError, SourceError, is_transient
from captionbeam.schemas.records import ImageRef

_BLOCK = 64 << 10  # footers are small
_LONGEST_READ = 8 << 20  # per range, each with its own retries and timeout
_READ = 4 * _LONGEST_READ  # bytes read concurrently
# Kept besides the current row group: bytes of small row groups, number of large ones (two shards are
# processed at a time, and one may be left unfinished).
_SMALL_BYTES, _LARGE_KEPT = LARGE_GROUP, 2

Cell = bytes | None | ImageError


class _Group(NamedTuple):
    uri: str
    file_version: str
    row_group: int
    column: str


def read_cells(refs: Sequence[ImageRef], options: FetchOptions) -> list[bytes | ImageError]:
    """Returns the bytes of each row in order. Neighbours in one row group share one read.

    Raises SourceError if the file is missing, SystemicError.
    """
    cells: list[bytes | ImageError] = []
    for group, members in groupby(refs, _group_of):
        wanted = list(members)
        found = _read_rows(group, {ref.length for ref in wanted}, options)
        cells.extend(_checked(found[ref.length], ref, options) for ref in wanted)
    return cells


def _group_of(ref: ImageRef) -> _Group:
    return _Group(ref.uri, (ref.version or "").rpartition(":")[0], ref.offset, ref.column)


def _checked(cell: Cell, ref: ImageRef, options: FetchOptions) -> bytes | ImageError:
    if isinstance(cell, ImageError):
        return cell
    if not cell:
        return ImageError("empty", "fetch", f"{ref.location}: the row holds no bytes")
    return cell if len(cell) <= options.max_bytes else too_large(ref.location, options.max_bytes)


def _read_rows(group: _Group, rows: Collection[int], options: FetchOptions) -> dict[int, Cell]:
    footer = _read_footer(group, options)
    if isinstance(footer, ImageError):
        return dict.fromkeys(rows, footer)
    if group.row_group >= footer.metadata.num_row_groups:
        gone = ImageError("not_found", "fetch", f"{group.uri}: has no row group {group.row_group}")
        return dict.fromkeys(rows, gone)
    return _recent.get(group, footer, options).read(rows)


class _Footer(NamedTuple):
    metadata: pq.FileMetaData
    size: int


def _read_footer(group: _Group, options: FetchOptions) -> _Footer | ImageError:
    try:
        return with_retries(options)(_footer, group.uri, group.file_version)
    except Exception as err:  # image_error raises errors again that do not concern input
        if isinstance(err, pa.ArrowException | OSError) and is_damage(err):
            raise SourceError(f"source {group.uri!r} is no longer a readable Parquet file: {err}") from err
        failure = image_error(err, group.uri)
    raise_if_gone(failure, group.uri)
    return failure


@lru_cache(maxsize=32)
def _footer(uri: str, version: str) -> _Footer:
    with access.open_stream(uri, _BLOCK) as stream:
        return _Footer(pq.read_metadata(stream), stream.seek(0, io.SEEK_END))


class _RowGroup:
    """The cells of one row group's column, for requests from any thread.

    They are read in order from the first one. Reading restarts only for rows that are no longer kept.
    """

    def __init__(self, group: _Group, footer: _Footer, options: FetchOptions) -> None:
        self._group, self._footer, self._options = group, footer, options
        self.rows = footer.metadata.row_group(group.row_group).num_rows
        self.is_large = bytes_per_row(footer.metadata, group.row_group) * self.rows > LARGE_GROUP
        self.kept_bytes, self._kept, self._lock = 0, OrderedDict[int, bytes | None](), threading.Lock()
        self._cells: Iterator[bytes | None] | None = None
        self._next = 0  # next row; after damage, the first unreadable row
        self._damage: ImageError | None = None

    def read(self, rows: Collection[int]) -> dict[int, Cell]:
        """Returns the cell of each row, or the error. Raises SourceError if the file is missing, SystemicError."""
        found: dict[int, Cell] = {}
        with self._lock:
            try:
                self._read(set(rows), found)
            except ImageError as err:
                found = {**dict.fromkeys(rows, err), **found}
        return found

    def _read(self, rows: set[int], found: dict[int, Cell]) -> None:
        for row in [row for row in rows if row >= self.rows]:
            found[row] = ImageError(
                "not_found", "fetch", f"{self._group.uri}: the row group has {self.rows} rows"
            )
        for row in rows & self._kept.keys():
            found[row] = self._kept[row]
            if self.is_large:
                self._drop(row)
        missing = rows - found.keys()
        if missing and min(missing) < self._next:
            self._begin()
        if missing and self._damage is not None:
            raise self._damage
        while self._next <= max(missing, default=-1):
            row, cell = self._next, self._pull()
            if row in missing:
                found[row] = cell
            if not self.is_large or row not in missing:
                self._keep(row, cell)

    def _begin(self) -> None:
        self._cells, self._next, self._damage = None, 0, None

    def _pull(self) -> bytes | None:
        if self._cells is None:
            self._cells = _stream_cells(self._group, self._footer, self._options)
        try:
            cell = next(self._cells)
        except StopIteration:
            self._damage = _damaged(self._group, f"it ends after {self._next} of {self.rows} rows")
            raise self._damage from None
        except ImageError as err:
            if is_transient(err.code):
                self._begin()
            else:
                self._damage = err
            raise
        except BaseException:  # Ctrl-C and systemic errors too: the next read begins anew
            self._begin()
            raise
        self._next += 1
        if self._next == self.rows:  # an unfinished iterator holds a page in memory
            self._cells = iter(())
        return cell

    def _keep(self, row: int, cell: bytes | None) -> None:
        if row not in self._kept:
            self._kept[row] = cell
            self.kept_bytes += len(cell or b"")
        while self.is_large and self.kept_bytes > LARGE_GROUP:
            self._drop(next(iter(self._kept)))

    def _drop(self, row: int) -> None:
        self.kept_bytes -= len(self._kept.pop(row) or b"")


class _Recent:
    """The most recently read row groups, for all threads of a process. The oldest are dropped first.

    Large ones are limited by number, as each has a page in memory. Small ones are limited by the bytes kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[_Group, FetchOptions], _RowGroup] = OrderedDict()

    def get(self, group: _Group, footer: _Footer, options: FetchOptions) -> _RowGroup:
        """Returns the shared reader of ``group``."""
        with self._lock:
            found = self._groups.pop((group, options), None) or _RowGroup(group, footer, options)
            self._forget(found.is_large)
            self._groups[group, options] = found
            return found

    def _forget(self, large: bool) -> None:
        """Frees space for one more row group, ``large`` or small."""
        alike = [(key, rows) for key, rows in self._groups.items() if rows.is_large == large]
        excess = (
            len(alike) - _LARGE_KEPT if large else sum(rows.kept_bytes for _, rows in alike) - _SMALL_BYTES
        )
        for key, rows in alike:
            if excess <= 0:
                break
            excess -= 1 if large else rows.kept_bytes
            del self._groups[key]


_recent = _Recent()


def _stream_cells(group: _Group, footer: _Footer, options: FetchOptions) -> Iterator[bytes | None]:
    """Yields cell by cell, with one page in memory. Raises ImageError, SourceError if the file is missing.

    pyarrow locates the column's pages itself; its API for page offsets aborts on a damaged footer.
    """
    stream = pa.PythonFile(_RangeReader(group.uri, footer.size, options), mode="r")
    unreleased = 0
    try:
        parquet = pq.ParquetFile(stream, metadata=footer.metadata, buffer_size=_READ, pre_buffer=False)
        batches = parquet.iter_batches(1, [group.row_group], [group.column], use_threads=False)
        for batch in batches:
            if not batch.num_columns:
                raise ImageError("not_found", "fetch", f"{group.uri}: has no column {group.column!r}")
            cells = column_at(batch, group.column).to_pylist()
            del batch
            unreleased += sum(len(cell or b"") for cell in cells)
            yield from cells
            if unreleased > _READ:  # else pyarrow keeps the memory of large cells
                pa.default_memory_pool().release_unused()
                unreleased = 0
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
        raise _damaged(group, err) from err


def _damaged(group: _Group, reason: object) -> ImageError:
    return ImageError("decode", "fetch", f"{group.uri}: row group {group.row_group} is damaged: {reason}")


class _RangeReader(io.RawIOBase):
    """A file of ``size`` bytes that is read by ranges, each with its own retries and timeout."""

    def __init__(self, url: str, size: int, options: FetchOptions) -> None:
        self._url, self._size, self._position = url, size, 0
        named = address_guard.origins([url])  # the file is a source, which the user named
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

    def read(self, size: int = -1) -> bytearray:
        """Raises ImageError, and SourceError if the file is missing."""
        end = self._size if size < 0 else min(self._position + size, self._size)
        data = bytearray()
        for start in range(self._position, end, _READ):
            for part in self._read(start, min(start + _READ, end)):
                if isinstance(part, ImageError):
                    raise_if_gone(part, self._url)
                    raise part
                data += part
        self._position += len(data)
        return data

    def _read(self, start: int, end: int) -> list[bytes | ImageError]:
        starts = range(start, end, _LONGEST_READ)
        ranges = [ByteRange(self._url, each, min(each + _LONGEST_READ, end)) for each in starts]
        return read_ranges(ranges, self._options)
