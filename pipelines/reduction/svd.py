"""Features to components with Beam: sums second moments in one pass and decomposes them at the end.

moments = p | NameShards | ReadFeatures | SumMoments   # shuffles one [C, C] matrix per bundle, no features
moments | WriteComponents                                 # seconds, on one worker; an atomic write
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import PBegin, PCollection

from captionbeam.pipelines.bulk.find import is_sampled
from captionbeam.pipelines.reduction.second_moments import Decomposition, SecondMoments, decompose
from captionbeam.pipelines.reduction.svd_options import SvdOptions
from captionbeam.pipelines.workers import progress_counter
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.pipelines.workers.output import storage_error
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.components import components_bytes, encoder_fingerprint, encoder_part
from captionbeam.schemas.formats.datafile import open_data
from captionbeam.schemas.formats.int8 import read_names, with_tensors
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.reading import Store

Task = tuple[str, list[int]]  # a data file, and its dead rows


def check_features(store: Store, options: SvdOptions) -> None:
    """Raises RequestError if the store has no features from which components can be computed."""
    if store.kind != "features":
        raise RequestError(f"{store.url} is a store of {store.kind}; expected one of features")
    if "reduction" in store.spec:
        raise RequestError(f"the features {store.url} are reduced already; expected those of an encoder")
    if options.components > store.shape[-1]:
        raise RequestError(
            f"{options.components} components of {store.shape[-1]} channels; expected --components of at most as many"
        )


class FitComponents(beam.PTransform[PBegin, PCollection[None]]):
    """Writes the components of the live rows of ``store`` to the file ``url``. Raises RequestError.

    ``request`` is recorded in the file as the options of the fit; ``run_id`` is the key of the counted images.
    """

    def __init__(
        self, store: Store, url: str, options: SvdOptions, request: Mapping[str, Any], run_id: str = "svd"
    ) -> None:
        super().__init__()
        check_features(store, options)
        self._options, self._url, self._run_id = options, url, run_id
        self._about = {
            "spec": encoder_part(store.spec),
            "fingerprint": encoder_fingerprint(store.spec),
            "request": dict(request),
        }
        self._channels = store.shape[-1]
        self._tasks: list[Task] = [
            (store.data_url(shard["shard"]), sorted(store.dead_in(shard["shard"]).rows))
            for shard in store.shards
            if shard["rows"]
        ]

    def expand(self, start: PBegin) -> PCollection[None]:
        return (
            start
            | "NameShards" >> beam.Create(self._tasks)
            | "SpreadShards" >> beam.Reshuffle()
            | "ReadFeatures" >> beam.FlatMap(across_workers(read_features), self._options, self._run_id)
            | "SumMoments" >> beam.CombineGlobally(SumMoments(self._channels))
            | "WriteComponents"
            >> beam.Map(across_workers(write_components), self._url, self._about, self._options)
        )


class SumMoments(beam.CombineFn):
    """Features ``[images, ..., C]`` -> their SecondMoments. Merging is associative up to float64's rounding."""

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def create_accumulator(self) -> SecondMoments:
        return SecondMoments(self._channels)

    def add_input(self, mutable_accumulator: SecondMoments, element: np.ndarray) -> SecondMoments:
        mutable_accumulator.add(element)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[SecondMoments]) -> SecondMoments:
        merged = self.create_accumulator()
        for one in accumulators:
            merged.merge(one)
        return merged

    def extract_output(self, accumulator: SecondMoments) -> SecondMoments:
        return accumulator


def read_features(task: Task, options: SvdOptions, run_id: str = "svd") -> Iterator[np.ndarray]:
    """Yields the features of one shard's selected images, float16 ``[images, ..., C]``, by row group."""
    url, dead = task
    data, start, gone, wanted = open_data(url), 0, frozenset(dead), options.image_ids

    def is_used(name: str) -> bool:
        sampled = options.sample == 1 or is_sampled(name, options.sample, options.seed)
        return sampled and (wanted is None or name in wanted)

    try:
        name = next(field.name for field in data.schema if arrow.is_grid(field))
        columns = read_names(data.schema, ["image_id", name])
        for group, size in enumerate(data.group_rows):
            batch = with_tensors(data.read(group, columns))
            ids = enumerate(batch.column(0).to_pylist())
            kept = [at for at, name in ids if start + at not in gone and is_used(name)]
            progress_counter.add(run_id, size)
            if len(kept):
                rows = batch.column(1).to_numpy_ndarray()
                yield rows if len(kept) == size else rows[kept]
            start += size
    finally:
        data.close()


def write_components(moments: SecondMoments, url: str, about: Mapping[str, Any], options: SvdOptions) -> None:
    """Decomposes the moments and writes the file atomically. Raises RequestError, SystemicError."""
    if not moments.images:
        raise RequestError("no image of the store is among those of --ids, or in the --sample; expected some")
    if moments.cells < options.components:
        raise RequestError(
            f"{moments.cells} cells of {moments.images} images make no {options.components} components; "
            "expected at least as many cells"
        )
    found = decompose(moments, options.components, options.center, options.scale)
    said = {**about, "images": moments.images, "cells": moments.cells, **explained(found)}
    try:
        files.write_atomic(url, components_bytes(found.vectors, found.mean, said))
    except OSError as err:
        raise storage_error(url, err) from err


def explained(found: Decomposition) -> dict[str, list[float]]:
    """Returns the kept components' variances and singular values, and all components' variance ratios."""
    ratio = found.variance / found.total if found.total > 0 else np.zeros_like(found.variance)
    count = len(found.vectors)
    return {
        "explained_variance": found.variance[:count].tolist(),
        "singular_values": found.singular_values[:count].tolist(),
        "explained_variance_ratio": ratio.tolist(),
        "cumulative": np.cumsum(ratio).tolist(),
    }
