"""The engine of a process: its models, one on each device, with their thread pools and limits.

Beam runs several bundles as threads of one process (Dataflow's harness threads, ``direct_num_workers``, workers of
Spark and Flink). They share one engine. It processes two shards at a time for each device, so that one is read while
the other is written; further shards wait. This module uses neither Beam nor torch.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import getpid

import pyarrow as pa

from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.workers.batches import OnDevices, Processor, WorkerJob, waiting_images
from captionbeam.pipelines.workers.processors import prepare_alone
from captionbeam.schemas.machine import cores, os_threads, peak_rss, threads_each
from captionbeam.schemas.store.layout import now
from captionbeam.schemas.store.workers import WorkerRecord, write_worker

SHARDS = 2  # processed at a time, for each device
WINDOW, WINDOW_BYTES = 32, 128 << 20  # images read together; fewer if they are large
WINDOWS_AHEAD = 2
SINGLES_AHEAD = 4
OTHERS = 64  # threads of Beam's harness, gRPC and pyarrow's I/O
SECONDS = 1.0  # between two updates of a process's record

_log = logging.getLogger(__name__)


class Gauge:
    """A current count and its maximum so far."""

    def __init__(self) -> None:
        self.now, self.most, self._lock = 0, 0, threading.Lock()

    def add(self, count: int) -> None:
        """Adds ``count``, which may be negative."""
        with self._lock:
            self.now += count
            self.most = max(self.most, self.now)

    def see(self, count: int) -> None:
        """Sets the current count."""
        with self._lock:
            self.now, self.most = count, max(self.most, count)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counts one more during the block."""
        self.add(1)
        try:
            yield
        finally:
            self.add(-1)


class Engine:
    """A processor with its thread pools and limits. ``threads`` decode; None: the default for a single process.

    All shards in progress share the pools ``reader``, ``preparers`` and ``runners``. ``limits`` are upper bounds of
    the gauges.
    """

    def __init__(
        self, processor: Processor, threads: int | None = None, worker: Worker | None = None
    ) -> None:
        self.processor, self.threads, self._worker = processor, threads or threads_each(None, 1), worker
        self.devices = processor.devices if isinstance(processor, OnDevices) else {}
        shards = SHARDS * max(1, len(self.devices))
        self.reader = ThreadPoolExecutor(shards, "fetch")
        self.preparers = ThreadPoolExecutor(self.threads, "prepare")
        self.runners = ThreadPoolExecutor(processor.streams, "run")
        self.bundles, self.shards, self.images = Gauge(), Gauge(), Gauge()
        self.preparing, self.batches, self.os_threads = Gauge(), Gauge(), Gauge()
        self._turns = threading.Semaphore(shards)
        self.limits = self._limits(shards)

    @property
    def batches_ahead(self) -> int:
        """Number of a shard's batches that are computed or wait for it, while an earlier one is awaited.

        Batches of one image are requests to an endpoint, some of which take far longer than others.
        """
        return self.processor.streams * (SINGLES_AHEAD if self.processor.batch_size == 1 else 1)

    @property
    def prepared_ahead(self) -> int:
        """Number of a shard's images that are prepared before the model needs them."""
        return max(2 * self.processor.streams * self.processor.batch_size, WINDOW)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for a free slot, then runs the block: at most SHARDS for each device at a time."""
        with self.bundles.one(), self._turns, self.shards.one():
            yield
            self.os_threads.see(os_threads())

    def did(self, images: int) -> None:
        """Notes a processed shard in the process's record, if it has one."""
        if self._worker is not None:
            self._worker.did(self, images)

    def write_record(self) -> None:
        """Updates that record."""
        if self._worker is not None:
            self._worker.write(self)

    def most(self) -> dict[str, int]:
        """Returns the maxima of the gauges by name."""
        return {name: gauge.most for name, gauge in vars(self).items() if isinstance(gauge, Gauge)}

    def _limits(self, shards: int) -> dict[str, int]:
        streams, size = self.processor.streams, self.processor.batch_size
        waiting = waiting_images(self.processor)
        shard = (
            (WINDOWS_AHEAD + 1) * WINDOW + self.prepared_ahead + 1 + (self.batches_ahead + 2) * size + waiting
        )
        return {
            "shards": shards,
            "images": shards * shard,
            "preparing": self.threads,
            "batches": streams,
            # 4 per thread (prepare, torch for the model, torch for its loader, pyarrow), 2 per stream
            # (waiting for a batch, computing it)
            "os_threads": OTHERS + cores() + shards + 4 * self.threads + 2 * streams,
        }


class Worker:
    """This process's statistics in a run, recorded next to the run's plan."""

    def __init__(self, run: Run, threads: int) -> None:
        self._run, self._threads, self._token = run, threads, uuid.uuid4().hex[:8]
        self._started, self._written, self._lock = now(), float("-inf"), threading.Lock()
        self.models, self._shards, self._images = 0, 0, 0
        self._most: dict[str, int] = {}
        self._dirty = False

    def loaded(self, engine: Engine) -> None:
        """Notes that a model was loaded."""
        self.models += 1
        self._note(engine, 0, 0)
        self.write(engine)

    def did(self, engine: Engine, images: int) -> None:
        """Notes a processed shard. The record is written at most about once a second."""
        self._note(engine, 1, images)
        if time.monotonic() - self._written >= SECONDS:
            self.write(engine)

    def write(self, engine: Engine) -> None:
        """Updates the record. A failed write is only logged, since the commits do not depend on it."""
        with self._lock:
            if not self._dirty:
                return
            self._dirty, self._written = False, time.monotonic()
            try:
                write_worker(self._run.folder, self._token, self._record(engine))
            except OSError as err:
                _log.warning("the record of this worker cannot be written to %s: %s", self._run.folder, err)

    def _note(self, engine: Engine, shards: int, images: int) -> None:
        with self._lock:
            self._shards, self._images, self._dirty = self._shards + shards, self._images + images, True
            self._most = {name: max(n, self._most.get(name, 0)) for name, n in engine.most().items()}

    def _record(self, engine: Engine) -> WorkerRecord:
        return WorkerRecord(
            run=self._run.run_id,
            host=socket.gethostname(),
            pid=getpid(),
            started=self._started,
            updated=now(),
            cores=cores(),
            threads=self._threads,
            models=self.models,
            devices=dict(engine.devices),
            shards=self._shards,
            images=self._images,
            peak_rss_bytes=peak_rss(),
            most=self._most,
            limits=engine.limits,
        )


_workers: dict[str, Worker] = {}
_loading = threading.Lock()


def load_engine(
    job: WorkerJob, threads: int | None = None, processes: int = 1, run: Run | None = None
) -> Engine:
    """Returns an engine for ``job`` with this process's share of threads, see ``threads_each``.

    With a ``run``, the engine keeps the process's record.
    """
    with _loading:
        due = threads_each(threads, processes)
        worker = _workers.setdefault(run.folder, Worker(run, due)) if run else None
        pa.set_cpu_count(due)
        engine = Engine(job.load(due, processes), due, worker)
        prepare_alone(engine.preparers, due)
        if worker is not None:
            worker.loaded(engine)
    return engine
