"""The rows of arrays as images, with ids from a list or from an array of text or integers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import apache_beam as beam
import h5py
from apache_beam.pvalue import PBegin, PCollection, TaggedOutput

from captionbeam.pipelines.bulk.listing_record import Listing
from captionbeam.pipelines.features.array_files import find_ids, kind_of
from captionbeam.pipelines.features.array_reads import read_rows
from captionbeam.pipelines.features.array_spec import ArraySpec
from captionbeam.pipelines.fetch.urls import printable
from captionbeam.pipelines.sources import access
from captionbeam.pipelines.sources.lists import keeper_of, list_suffix
from captionbeam.pipelines.sources.lists import read_rows as read_list
from captionbeam.pipelines.sources.spec import Columns, SourceSpec, source_name
from captionbeam.pipelines.sources.tables.columns import FIRST_ROWS, ID_COLUMNS, URI_COLUMNS, find_first
from captionbeam.pipelines.sources.tables.keeper import settle_columns
from captionbeam.pipelines.workers.boundary import worker_boundary
from captionbeam.schemas.errors import ImageError, RequestError, SourceError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import options as storage_options

CELLS = (".csv", ".tsv")
_LISTS = "a .csv, .tsv, .jsonl or .parquet"
_ROWS = 1 << 14
_BLOCK = 1 << 20


class IdsSpec(NamedTuple):
    """The location of ids: a list and its ``column``, or an ``array``.

    ``keep``: columns of the list to keep beside the rows, as of SourceSpec.
    """

    url: str
    column: str = ""
    array: ArraySpec | None = None
    keep: Sequence[str] = ()


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
    yield from (image_id for image_id, _ in _rows_with_ids(ids))


def _rows_with_ids(ids: IdsSpec, names: Iterable[str] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields each id with its row of the list; from Parquet, of the columns ``names``. Raises SourceError."""
    if ids.array is not None:
        for value in _values(ids.array):
            text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
            yield printable(text), {}
        return
    for row in read_list(ids.url, (ids.column, *names)):
        value = row.get(ids.column)
        yield "" if value is None else printable(str(value)), row


def keeping(
    pairs: Sequence[tuple[ArraySpec, IdsSpec]], keep: Sequence[str]
) -> list[tuple[ArraySpec, IdsSpec]]:
    """Returns the arrays with ids whose lists ``keep`` columns. Raises SourceError for one that none has."""
    lists = [(array, ids) for array, ids in pairs if ids.array is None]
    if not lists:
        raise SourceError(
            f"the ids are in arrays, which have no columns to keep; expected --ids with {_LISTS}"
        )
    specs = [_list_spec(array, ids._replace(keep=keep)) for array, ids in lists]
    seen = [spec._replace(header=_header(spec.url)) for spec in specs]
    settled = {spec.name: spec.keep for spec in settle_columns(seen, ())}
    return [(array, ids._replace(keep=settled.get(array.url, ()))) for array, ids in pairs]


def _list_spec(array: ArraySpec, ids: IdsSpec) -> SourceSpec:
    return SourceSpec(array.url, "list", ids.url, id_column=ids.column, keep=ids.keep)


def _header(url: str) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(islice(read_list(url), FIRST_ROWS))))


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


class FindArrayRows(beam.PTransform[PBegin, tuple[PCollection[ImageRef], PCollection[Listing]]]):
    """PBegin -> references of kind ``array`` to all rows of all arrays, with the version of their file, and a
    ``Listing`` of each array.
    """

    def __init__(self, arrays: Sequence[tuple[ArraySpec, IdsSpec]]) -> None:
        super().__init__()
        self._arrays = list(arrays)

    def expand(self, start: PBegin) -> Any:  # Beam takes no tuple as a hint
        listed = (
            start
            | "NameArrays" >> beam.Create(self._arrays)
            | "SpreadArrays" >> beam.Reshuffle()
            | "ListRows"
            >> beam.ParDo(_ListRows()).with_output_types(ImageRef).with_outputs("listings", main="rows")
        )
        return listed.rows, listed.listings


class _ListRows(beam.DoFn):
    def __init__(self) -> None:
        self._storage = storage_options.current()

    def process(
        self, pair: tuple[ArraySpec, IdsSpec]
    ) -> Iterator[ImageRef | TaggedOutput[Literal["listings"], Listing]]:
        rows, columns = 0, ""
        with worker_boundary(self._storage):
            for found in list_rows(*pair):
                if isinstance(found, Columns):
                    columns = found.schema
                else:
                    rows += 1
                    yield found
        yield TaggedOutput("listings", Listing(pair[0].url, rows, {}, columns))


def list_rows(array: ArraySpec, ids: IdsSpec) -> Iterator[ImageRef | Columns]:
    """Yields a reference to each row of an array, then the kept columns. Raises SourceError."""
    keeper, names = keeper_of(_list_spec(array, ids))
    are_cells = list_suffix(ids.url) in CELLS
    for row, (image_id, values) in enumerate(_rows_with_ids(ids, names.values())):
        yield ImageRef(
            image_id=image_id,
            uri=array.url,
            source=array.url,
            version=None if array.version is None else f"{array.version}:{row}",
            kind="array",
            offset=row,
            length=1,
            column=array.key,
            columns=keeper.text(values, f"row {row + 1}", are_cells),
        )
    yield from keeper.columns()
