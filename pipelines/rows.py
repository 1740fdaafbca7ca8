"""Rows of a features snapshot as images: found from its index, fetched a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np

from pipelines.boundary import across_workers
from schemas import arrow
from schemas.datafile import open_data
from schemas.errors import ImageError
from schemas.records import ImageRef
from schemas.store import Store


class FindRows(beam.PTransform):
    """A features snapshot's live rows as references of kind ``row``, each with its image's id and version."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._url, self._snapshot = store.url, store.snapshot_id
        self._shards = store.manifest.column("shard").to_pylist()

    def expand(self, start: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            start
            | beam.Create(self._shards)
            | beam.Reshuffle()
            | beam.FlatMap(
                across_workers(find_rows), url=self._url, snapshot=self._snapshot
            ).with_output_types(ImageRef)
        )


def find_rows(shard: str, url: str, snapshot: int) -> Iterator[ImageRef]:
    """References to the live rows of one shard."""
    store = Store.open(url, snapshot)
    for row in store.shard_index(shard).to_pylist():
        if not row["failed"]:
            yield ImageRef(
                row["image_id"],
                store.data_url(shard),
                row["source"],
                row["version"],
                "row",
                row["row"],
                -1,
                0,
                -1,
                row["uri"],
            )


def fetch_rows(refs: Sequence[ImageRef]) -> list[np.ndarray | ImageError]:
    """The grids (float16 ``[H, W, C]``, or ``[C]``) that references of kind ``row`` point at, in order."""
    found: dict[tuple[str, int], np.ndarray | ImageError] = {}
    for url in dict.fromkeys(ref.uri for ref in refs):
        rows = np.array(sorted({ref.offset for ref in refs if ref.uri == url}))
        found.update(((url, int(row)), grid) for row, grid in _read_rows(url, rows))
    return [found[ref.uri, ref.offset] for ref in refs]


def _read_rows(url: str, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray | ImageError]]:
    try:
        data = open_data(url)
    except FileNotFoundError:
        yield from ((row, ImageError("not_found", "fetch", f"{url} is gone")) for row in rows)
        return
    field = next(field for field in data.schema if arrow.is_grid(field))
    start = 0
    for group, size in enumerate(data.group_rows):
        wanted = rows[(rows >= start) & (rows < start + size)]
        if len(wanted):
            grids = arrow.as_tensor(data.read(group, [field.name]).column(0), field).to_numpy_ndarray()
            yield from ((row, grids[row - start]) for row in wanted)
        start += size
    data.close()
