"""FindArrayRows: lists the rows of arrays as images with their ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection

from captionbeam.pipelines.features.array_ids import IdsSpec, read_ids
from captionbeam.pipelines.features.array_spec import ArraySpec
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.records import ImageRef


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
            | "ListRows" >> beam.FlatMap(across_workers(_listed)).with_output_types(ImageRef)
        )


def _listed(pair: tuple[ArraySpec, IdsSpec]) -> Iterator[ImageRef]:
    yield from list_rows(*pair)


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
