"""Reads rows of arrays by slices, never the whole array: by byte ranges if each row is contiguous in the file."""

from __future__ import annotations

import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import h5py
import numpy as np

from captionbeam.pipelines.features.array_files import arrays_in, read_header
from captionbeam.pipelines.features.array_spec import ArraySpec
from captionbeam.pipelines.fetch.byte_ranges import LISTING, ByteRange
from captionbeam.pipelines.fetch.errors import raise_if_gone, reading
from captionbeam.pipelines.fetch.reads import read_ranges
from captionbeam.pipelines.fetch.urls import is_local, local_path
from captionbeam.pipelines.sources import access
from captionbeam.schemas.errors import ImageError, RequestError, SourceError
from captionbeam.schemas.records import ImageRef

_BLOCK = 1 << 20
_LONGEST_READ = 8 << 20  # bytes per request
_opening = threading.Lock()


def fetch_rows(refs: Sequence[ImageRef], arrays: Mapping[str, ArraySpec]) -> list[np.ndarray | ImageError]:
    """Returns the rows for references of kind ``array``, in order and in the array's dtype.

    ``arrays`` are keyed by URL. Raises SourceError for a missing, changed or damaged file, SystemicError.
    """
    found: dict[tuple[str, int], np.ndarray | ImageError] = {}
    for url in dict.fromkeys(ref.uri for ref in refs):
        array = arrays[url]
        for start, stop in _runs([ref.offset for ref in refs if ref.uri == url], array):
            rows = read_rows(array, start, stop)
            found.update(((url, start + number), row) for number, row in enumerate(rows))
    return [found[ref.uri, ref.offset] for ref in refs]


def check_order(array: ArraySpec) -> None:
    """Raises RequestError for an array that would have to be read completely for each slice."""
    if array.fortran and not is_local(array.url):
        raise RequestError(
            f"array {array.label} is in Fortran order, in which rows are not contiguous; expected a copy in C order, "
            "or a file on this machine"
        )


def read_rows(array: ArraySpec, start: int, stop: int) -> Sequence[np.ndarray | ImageError]:
    """Returns rows ``start`` (inclusive) to ``stop`` (exclusive), or an error for each."""
    if array.kind != "hdf5" and array.offset >= 0 and not array.fortran:
        return _read_contiguous(array, start, stop)
    with _opening:  # one thread opens the file; HDF5 serialises the reads
        rows = _opened(array)
    with reading(array.url):
        return list(np.asarray(rows[start:stop]))


def _runs(rows: Sequence[int], array: ArraySpec) -> Iterator[tuple[int, int]]:
    """Yields ranges of consecutive rows, each within the limit of one read."""
    most = max(1, _LONGEST_READ // max(1, array.row_bytes))
    for _, run in groupby(enumerate(sorted(set(rows))), key=lambda pair: pair[1] - pair[0]):
        numbers = [row for _, row in run]
        for begin in range(0, len(numbers), most):
            part = numbers[begin : begin + most]
            yield part[0], part[-1] + 1


def _read_contiguous(array: ArraySpec, start: int, stop: int) -> Sequence[np.ndarray | ImageError]:
    size = array.row_bytes
    wanted = ByteRange(array.url, array.offset + start * size, array.offset + stop * size)
    (data,) = read_ranges([wanted], LISTING)
    if isinstance(data, ImageError):
        raise_if_gone(data, array.url)
        return [data] * (stop - start)
    whole = np.frombuffer(data[: len(data) // size * size], array.dtype).reshape(-1, *array.shape[1:])
    cut = [f"{array.label} ends before row {row}" for row in range(start + len(whole), stop)]
    return [*whole, *(ImageError("truncated", "fetch", message) for message in cut)]


@lru_cache(maxsize=16)
def _opened(array: ArraySpec) -> Any:
    """Returns an object that gives rows by ``[start:stop]``. Raises SourceError if the array has changed."""
    if arrays_in(array.url).get(array.key) != array:
        raise SourceError(f"array {array.label} has changed since it was listed; expected it to stay")
    if array.kind == "hdf5":
        return h5py.File(access.open_stream(array.url, _BLOCK), "r")[array.key]
    if array.offset >= 0:
        return _mapped(array, local_path(array.url), array.offset)
    with (
        tempfile.TemporaryFile(prefix="captionbeam-") as file,  # the memory map outlives the file's name
        access.open_container(array.url, _BLOCK) as stream,
        zipfile.ZipFile(stream) as archive,
        archive.open(f"{array.key}.npy") as member,
    ):
        shutil.copyfileobj(member, file, _BLOCK)
        file.seek(0)
        read_header(file)
        return _mapped(array, file, file.tell())


def _mapped(array: ArraySpec, file: Any, offset: int) -> np.ndarray:
    return np.memmap(file, array.dtype, "r", offset, array.shape, "F" if array.fortran else "C")
