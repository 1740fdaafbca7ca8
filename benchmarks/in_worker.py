"""The images of files, as a worker's process computes a shard's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from captionbeam.pipelines.workers.engine import Engine
from captionbeam.pipelines.workers.shards import Tally, process_images
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.records import ImageRef


def in_worker(
    engine: Engine, column: str, value: Callable[[Any], Any]
) -> Callable[[Sequence[Path]], list[Any]]:
    """Returns what gives ``value`` of each file's row of ``column``, in order: the worker's part but for its output.

    A row is an array, or a Python value where the column is Arrow's.
    """

    def fetch(refs: Sequence[ImageRef]) -> list[bytes | ImageError]:
        return [Path(ref.uri).read_bytes() for ref in refs]

    def values(paths: Sequence[Path]) -> list[Any]:
        refs = [ImageRef(str(number), str(one), "1", "s") for number, one in enumerate(paths)]
        found: dict[str, Any] = {}
        with (
            closing(Tally(engine.images)) as tally,
            closing(process_images(refs, engine, engine.processor, fetch, tally, False)) as results,
        ):
            for done, columns in results:
                if isinstance(columns, ImageError):
                    raise columns
                rows = columns[column]
                rows = rows.to_pylist() if isinstance(rows, pa.Array) else rows
                found |= {one.ref.image_id: value(row) for one, row in zip(done, rows, strict=True)}
        return [found[ref.image_id] for ref in refs]

    return values
