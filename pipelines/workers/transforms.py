"""ProcessShards: the Beam transform of ``process_shard``, for all processors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection
from apache_beam.utils.shared import Shared

from captionbeam.pipelines.bulk.plan import read_shard
from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.workers import progress_counter
from captionbeam.pipelines.workers.batches import WorkerJob
from captionbeam.pipelines.workers.boundary import worker_boundary
from captionbeam.pipelines.workers.engine import Engine, load_engine
from captionbeam.pipelines.workers.shards import Fetch, process_shard
from captionbeam.schemas.records import Shard, ShardReport
from captionbeam.schemas.storage import options as storage_options


class ProcessShards(beam.PTransform[PCollection[list[Shard]], PCollection[ShardReport]]):
    """Takes sequences of ``Shard`` pointers, returns ``ShardReport``. One worker processes a sequence in order.

    ``job`` loads the processor on a worker. A process has one engine for all its bundles. The engine has ``threads``,
    or else the share of the machine's cores for one of ``processes`` (0: one per core).
    """

    def __init__(
        self, run: Run, job: WorkerJob, fetch: Fetch, threads: int | None = None, processes: int = 1
    ) -> None:
        super().__init__()
        self._run, self._fetch = run, fetch
        self._load = partial(load_engine, job, threads, processes, run)

    def expand(self, shards: PCollection[list[Shard]]) -> PCollection[ShardReport]:
        work = _ProcessShard(self._run, self._load, self._fetch)
        return shards | "Process" >> beam.ParDo(work).with_output_types(ShardReport)


class _ProcessShard(beam.DoFn):
    def __init__(self, run: Run, load: Callable[[], Engine], fetch: Fetch) -> None:
        self._run, self._load, self._fetch = run, load, fetch
        self._shared, self._storage = Shared(), storage_options.current()
        self._engine: Engine | None = None

    def setup(self) -> None:
        """Gets the process's engine, and loads it the first time."""
        with worker_boundary(self._storage):
            self._engine = self._shared.acquire(self._load, tag=self._run.run_id)

    def process(self, shards: Sequence[Shard]) -> Iterator[ShardReport]:
        """Processes each shard, from its references to its commit."""
        for shard in shards:
            yield self._process(shard)

    def _process(self, shard: Shard) -> ShardReport:
        engine = self._ready()
        with worker_boundary(self._storage):
            report, counts = process_shard(
                shard.shard_id,
                read_shard(shard),
                engine,
                self._run,
                self._fetch,
                seen=lambda images: progress_counter.add(self._run.run_id, images),
            )
            if report.fresh:
                engine.did(report.rows + report.failures)
        _count(counts, report)
        return report

    def finish_bundle(self) -> None:
        """Writes the process's record at the end of a bundle."""
        with worker_boundary(self._storage):
            self._ready().write_record()

    def _ready(self) -> Engine:
        if self._engine is None:
            raise RuntimeError(
                "process() before setup(); expected a runner that keeps to Beam's DoFn life cycle"
            )
        return self._engine


def _count(counts: Counter[str], report: ShardReport) -> None:
    Metrics.counter("captionbeam", "shards").inc()
    Metrics.counter("captionbeam", "bytes_written").inc(report.bytes_written if report.fresh else 0)
    for name, value in counts.items():
        Metrics.counter("captionbeam", name).inc(value)
