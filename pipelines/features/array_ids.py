"""The rows of arrays as images, with ids from a list or from an array of text or integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import h5py
from apache_beam.pvalue import PBegin, PCollection

from captionbeam.pipelines.features.array_files import find_ids, kind_of
from captionbeam.pipelines.features.array_reads import read_rows
from captionbeam.pipelines.features.array_spec import ArraySpec
from captionbeam.pipelines.fetch.urls import printable
from captionbeam.pipelines.sources import access
from captionbeam.pipelines.sources.lists import list_suffix
from captionbeam.pipelines.sources.lists import read_rows as read_list
from captionbeam.pipelines.sources.spec import source_name
from captionbeam.pipelines.sources.tables.columns import ID_COLUMNS, URI_COLUMNS, find_first
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.errors import ImageError, RequestError, SourceError
from captionbeam.schemas.records import ImageRef

_ROWS = 1 << 14
_BLOCK = 1 << 20


class IdsSpec(NamedTuple):
    """The location of ids: a list and its ``column``, or an ``array``."""

    url: str
    column: str = ""
    array: ArraySpec | None = None


def find_id_list(url: str, column: str | None = None, dataset: str | None = None) -> IdsSpec:
    """Determines the ids at ``url``. ``column`` applies to lists, ``dataset`` to .npz and HDF5 files.

    Raises RequestError, SourceError.
    """
    name = source_name(url)
    if kind_of(name):
        return IdsSpec(name, array=find_ids(name, dataset))
    if not list_suffix(name):
        raise RequestError(
            f"ids {name!r} are no list; expected .txt, .csv, .tsv, .jsonl, .parquet, .npy, .npz, .h5 or .hdf5"
        )
    return IdsSpec(name, _column(name, column))


def read_ids(ids: IdsSpec) -> Iterator[str]:
    """Yields the ids in order, as written. Raises SourceError."""
    if ids.array is not None:
        for value in _values(ids.array):
            yield printable(
                value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
            )
        return
    for row in read_list(ids.url, (ids.column,)):
        value = row.get(ids.column)
        yield "" if value is None else printable(str(value))


def check_ids(ids: IdsSpec, array: ArraySpec, known: dict[str, str]) -> None:
    """Adds the array's ids with their positions to ``known``.

    Raises RequestError for a blank or duplicate id, or if the number of ids differs from the number of rows.
    """
    count = 0
    for row, image_id in enumerate(read_ids(ids)):
        here, count = f"row {row} of {ids.url}", row + 1
        if not image_id.strip():
            raise RequestError(f"the id in {here} is empty; expected one for each row")
        if image_id in known:
            raise RequestError(
                f"two rows have the id {image_id!r}: {known[image_id]} and {here}; expected one"
            )
        known[image_id] = here
    if count != array.rows:
        raise RequestError(
            f"{ids.url} has {count} ids, array {array.label} has {array.rows} rows; expected as many"
        )


def _values(array: ArraySpec) -> Iterator[Any]:
    if array.dtype != "text":
        for start in range(0, array.rows, _ROWS):
            for value in read_rows(array, start, min(start + _ROWS, array.rows)):
                if isinstance(value, ImageError):
                    raise SourceError(f"the ids cannot be read: {value.message}")
                yield value
        return
    with access.open_container(array.url, _BLOCK) as stream, h5py.File(stream, "r") as file:
        for start in range(0, array.rows, _ROWS):
            yield from file[array.key][start : start + _ROWS]


def _column(url: str, wanted: str | None) -> str:
    first: Mapping[str, Any] | None = next(iter(read_list(url)), None)
    if first is None:
        raise RequestError(f"ids {url!r} are an empty list; expected one for each row of the array")
    found = find_first((wanted,) if wanted else (*ID_COLUMNS, *URI_COLUMNS), list(first))
    if not found:
        there = ", ".join(map(repr, first))
        expected = repr(wanted) if wanted else "--id-column NAME"
        raise RequestError(f"ids {url!r} have the columns {there}; expected {expected}")
    return found


class FindArrayRows(beam.PTransform[PBegin, PCollection[ImageRef]]):
    """PBegin -> PCollection[ImageRef] of kind ``array``: all rows of all arrays, with the version of their file."""

    def __init__(self, arrays: Sequence[tuple[ArraySpec, IdsSpec]]) -> None:
        super().__init__()
        self._arrays = list(arrays)

    def expand(self, start: PBegin) -> PCollection[ImageRef]:
        return (
            start
            | "NameArrays" >> beam.Create(self._arrays)
            | "SpreadArrays" >> beam.Reshuffle()
            | "ListRows" >> beam.FlatMapTuple(across_workers(list_rows)).with_output_types(ImageRef)
        )


def list_rows(array: ArraySpec, ids: IdsSpec) -> Iterator[ImageRef]:
    """Yields a reference to each row of an array. Raises SourceError."""
    for row, image_id in enumerate(read_ids(ids)):
        yield ImageRef(
            image_id=image_id,
            uri=array.url,
            source=array.url,
            version=None if array.version is None else f"{array.version}:{row}",
            kind="array",
            offset=row,
            length=1,
            column=array.key,
        )
