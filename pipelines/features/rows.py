"""Rows of a features snapshot as images: listed from its index, fetched by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import PBegin, PCollection

from captionbeam.pipelines.bulk.find import ref_is_sampled
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.formats import arrow, kept, parquet
from captionbeam.schemas.formats.datafile import open_data, read_rows
from captionbeam.schemas.formats.int8 import read_names, with_tensors
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.reading import Dead, Store, live_index


class FindRows(beam.PTransform[PBegin, PCollection[ImageRef]]):
    """Lists a features snapshot's live rows as references of kind ``row``, with image id and version.

    ``sample`` and ``seed`` select the same images as in ``FindImages``. ``columns``: names and types of those kept
    columns of the snapshot, by their names in the input, that the references carry along.
    """

    def __init__(
        self, store: Store, sample: float = 1.0, seed: int = 0, columns: pa.Schema | None = None
    ) -> None:
        super().__init__()
        self._sample, self._seed = sample, seed
        self._columns = kept.schema_text(columns or pa.schema([]))
        self._tasks = [
            (
                files.join(store.url, "index", shard["index"]),
                store.data_url(shard["shard"]),
                sorted(store.dead_in(shard["shard"]).rows),
                files.join(store.url, "columns", shard["columns"]) if shard["columns"] else "",
            )
            for shard in store.shards
            if shard["rows"]
        ]

    def expand(self, start: PBegin) -> PCollection[ImageRef]:
        rows = (
            start
            | "NameShards" >> beam.Create(self._tasks)
            | "SpreadShards" >> beam.Reshuffle()
            | "ListRows"
            >> beam.FlatMapTuple(across_workers(find_rows), self._columns).with_output_types(ImageRef)
        )
        return rows | "SampleRows" >> beam.Filter(ref_is_sampled, self._sample, self._seed)


def find_rows(
    index: str, data: str, dead: Sequence[int], columns_url: str = "", columns: str = ""
) -> Iterator[ImageRef]:
    """Yields references to the live rows of one shard, from its index, its data file and its dead rows.

    ``columns_url``: of its kept columns, '' if it has none. ``columns``: those to carry along, as from ``schema_text``.
    """
    texts = read_texts(columns_url, kept.schema_of(columns)) if columns and columns_url else []
    table = live_index(parquet.read_table(index), Dead(rows=frozenset(dead)))
    for row in table.to_pylist():
        if not row["failed"]:
            yield ImageRef(
                image_id=row["image_id"],
                uri=data,
                source=row["source"],
                version=row["version"],
                kind="row",
                offset=row["row"],
                column=row["uri"],
                columns=texts[row["row"]] if texts else "",
            )


def carried_columns(store: Store) -> pa.Schema:
    """Returns names, as in the input, and types of all kept columns that references to a store's rows can carry along.

    What image files say of themselves is among them, unless the input has a column of that name.
    """
    own = store.input_columns
    exif = [field for field in list(store.kept)[len(own) :] if field.name not in own.names]
    return pa.schema([*own, *exif])


def read_texts(url: str, schema: pa.Schema) -> list[str]:
    """Returns the kept columns of ``schema``, by their names in the input, as text for each row of a columns file.

    These are a shard's data rows, then its failures. What image files say of themselves is among the columns.
    """
    table = parquet.read_table(url)
    exif = kept.exif_in(table, schema)
    ours = {field.name: kept.plain_values(exif.field(number)) for number, field in enumerate(schema)}
    of_files = (
        kept.packed({name: values[row] for name, values in ours.items()}) for row in range(len(table))
    )
    texts = table.column(kept.TEXT).to_pylist()
    return [
        kept.combined(exif_text, kept.selected(text, schema.names))
        for exif_text, text in zip(of_files, texts, strict=True)
    ]


def fetch_rows(refs: Sequence[ImageRef]) -> list[np.ndarray | ImageError]:
    """Returns the grids (float16 ``[H, W, C]``, or ``[C]``) for references of kind ``row``, in order."""
    found: dict[tuple[str, int], np.ndarray | ImageError] = {}
    for url in dict.fromkeys(ref.uri for ref in refs):
        rows = sorted({ref.offset for ref in refs if ref.uri == url})
        found.update(((url, row), grid) for row, grid in _read_grids(url, rows))
    return [found[ref.uri, ref.offset] for ref in refs]


def _read_grids(url: str, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray | ImageError]]:
    try:
        data = open_data(url)
    except FileNotFoundError:
        yield from ((row, ImageError("not_found", "fetch", f"{url} is gone")) for row in rows)
        return
    with closing(data):
        name = next(field.name for field in data.schema if arrow.is_grid(field))
        for numbers, batch in read_rows(data, rows, read_names(data.schema, [name])):
            yield from zip(numbers, with_tensors(batch).column(0).to_numpy_ndarray(), strict=True)
