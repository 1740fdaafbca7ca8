"""Runs without a job: a store's folder, a fingerprint, a processor that needs no model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from captionbeam.pipelines.bulk.run import Run, start_run
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.records import ImageRef

FIELD = arrow.grid_field("grid", (2, 2, 1))


def features_run(folder: Path | str, spec: Mapping[str, Any] | None = None, **options: Any) -> Run:
    """A run on a features store of ``[2, 2, 1]`` grids below ``folder``."""
    spec = dict(spec or {"model": "mean"})
    return start_run(f"{folder}/store", "features", spec, fingerprint(spec), FIELD, **options)


class Mean:
    """A processor whose grid is the mean of the item's bytes; items of b"bad" do not decode.

    ``breaks`` is called with each batch's ids before it is run, and may raise.
    """

    schema = pa.schema([FIELD])
    fingerprint = ""

    def __init__(
        self, batch_size: int = 4, breaks: Callable[[list[str]], None] | None = None, streams: int = 1
    ) -> None:
        self.batch_size, self.breaks, self.streams = batch_size, breaks, streams
        self.batches: list[list[str]] = []
        self.lock = threading.Lock()

    def prepare(self, item: bytes) -> np.ndarray:
        if item == b"bad":
            raise ImageError("decode", "decode", "bad bytes")
        return np.full((2, 2, 1), sum(item) / len(item), np.float16)

    def run(self, batch: list[np.ndarray], image_ids: list[str]) -> dict[str, np.ndarray]:
        with self.lock:
            self.batches.append(image_ids)
        if self.breaks is not None:
            self.breaks(image_ids)
        return {"grid": np.stack(batch)}


class Loads:
    """A worker job that loads ``processor``, and notes with how many threads."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.threads = processor, list[int]()

    def load(self, threads: int, processes: int = 1) -> Any:
        self.threads.append(threads)
        return self.processor


def fetch_from(
    items: Mapping[str, bytes | ImageError],
) -> Callable[[Sequence[ImageRef]], list[bytes | ImageError]]:
    """A fetch that looks the ids up in ``items``."""

    def fetch(refs: Sequence[ImageRef]) -> list[bytes | ImageError]:
        return [
            items.get(ref.image_id, ImageError("not_found", "fetch", f"no {ref.image_id}")) for ref in refs
        ]

    return fetch
