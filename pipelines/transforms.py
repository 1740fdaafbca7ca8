"""ProcessShards: the Beam side of ``process_shard``, for every processor: encoders, captioners."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from pipelines import live
from pipelines.batches import Processor
from pipelines.boundary import crossing
from pipelines.plan import read_shard
from pipelines.run import Run
from pipelines.shards import Fetch, process_shard
from schemas.records import Shard, ShardReport


class ProcessShards(beam.PTransform):
    """``Shard`` pointers in, ``ShardReport`` out; each shard read, run and committed by one worker.

    ``load`` makes the processor from ``settings`` on a worker; a process shares one, however many bundles it runs.
    """

    def __init__(self, run: Run, load: Any, settings: Mapping[str, Any], fetch: Fetch) -> None:
        super().__init__()
        self._run, self._load, self._settings, self._fetch = run, load, dict(settings), fetch

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        work = _ProcessShard(self._run, self._load, self._settings, self._fetch)
        return shards | "Process" >> beam.ParDo(work).with_output_types(ShardReport)


class _ProcessShard(beam.DoFn):
    def __init__(self, run: Run, load: Any, settings: Mapping[str, Any], fetch: Fetch) -> None:
        self._run, self._load, self._settings, self._fetch = run, load, settings, fetch
        self._shared = Shared()
        self._processor: Processor | None = None

    def setup(self) -> None:
        """Get the process's one processor, loading it the first time."""
        with crossing():
            self._processor = self._shared.acquire(self._make, tag=self._run.run_id)

    def _make(self) -> Processor:
        return self._load(self._settings)

    def process(self, shard: Shard) -> Iterator[ShardReport]:
        """One shard, from its references to its commit."""
        if self._processor is None:
            raise RuntimeError(
                "process() before setup(); expected a runner that keeps to Beam's DoFn life cycle"
            )
        with crossing():
            report, counts = process_shard(
                shard.shard_id,
                read_shard(shard),
                self._processor,
                self._run,
                self._fetch,
                threads=os.cpu_count(),
                seen=lambda images: live.seen(self._run.run_id, images),
            )
        _count(counts, report)
        yield report


def _count(counts: Counter[str], report: ShardReport) -> None:
    Metrics.counter("captionbeam", "shards").inc()
    Metrics.counter("captionbeam", "bytes_written").inc(report.bytes_written if report.fresh else 0)
    for name, value in counts.items():
        Metrics.counter("captionbeam", name).inc(value)
