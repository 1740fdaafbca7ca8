"""ReadFeatures: the rows of a features store as elements."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import apache_beam as beam

from captionbeam.pipelines.features.rows import carried_columns, read_texts
from captionbeam.pipelines.transforms.elements import ImageFeatures
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats.datafile import open_data, read_rows
from captionbeam.schemas.formats.int8 import read_names, with_tensors
from captionbeam.schemas.formats.kept import schema_of, schema_text
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.reading import Store

PLACE = ("image_id", "uri", "version", "source")


class ReadFeatures(beam.PTransform[beam.pvalue.PBegin, beam.PCollection[ImageFeatures]]):
    """PBegin -> PCollection[ImageFeatures]: all rows of a snapshot, read in parallel by shard.

    ``store``: a path or URL, ``STORE@TAG`` for another snapshot than the newest, or a Store. Raises StoreError, and
    RequestError if it is not a store of features.
    """

    def __init__(self, store: str | os.PathLike[str] | Store) -> None:
        super().__init__()
        self._store = store

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[ImageFeatures]:
        store = self._store if isinstance(self._store, Store) else Store.open(self._store)
        if store.kind != "features":
            raise RequestError(f"{store.url} is a store of {store.kind}; expected one of features")
        shards = [
            (
                store.data_url(shard["shard"]),
                sorted(store.dead_in(shard["shard"]).rows),
                files.join(store.url, "columns", shard["columns"]) if shard["columns"] else "",
            )
            for shard in store.shards
            if shard["rows"]
        ]
        kept = schema_text(carried_columns(store))
        reading = beam.FlatMap(across_workers(_read), store.column, store.fingerprint, kept)
        return (
            begin
            | "NameShards" >> beam.Create(shards)
            | "SpreadShards" >> beam.Reshuffle()
            | "ReadRows" >> reading.with_output_types(ImageFeatures)
        )


def _read(
    shard: tuple[str, list[int], str], column: str, fingerprint: str, kept: str
) -> Iterator[ImageFeatures]:
    """Yields the rows of one data file except the given dead ones, with their ``kept`` columns (``schema_text``)."""
    url, dead, columns_url = shard
    texts = read_texts(columns_url, schema_of(kept)) if kept and columns_url else []
    with closing(open_data(url)) as data:
        rows = sorted(set(range(sum(data.group_rows))).difference(dead))
        for numbers, stored in read_rows(data, rows, read_names(data.schema, [*PLACE, column])):
            batch = with_tensors(stored)
            grids = batch.column(column).to_numpy_ndarray()
            for number, row, grid in zip(numbers, batch.select(PLACE).to_pylist(), grids, strict=True):
                yield ImageFeatures(
                    **row,
                    fingerprint=fingerprint,
                    shape=list(grid.shape),
                    data=grid.tobytes(),
                    columns=texts[number] if texts else "",
                )
