"""One engine a process: a model, its threads and a bounded amount of work under way, however many bundles run at once.

Beam runs several bundles as threads of one process (Dataflow's harness threads, ``direct_num_workers``, the workers of
Spark and Flink). They share one engine. It works on two shards at a time, so that one begins to read while the other
is written; whoever comes third waits. Needs neither Beam nor torch.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import getpid
from typing import Any

import pyarrow as pa

from captionbeam.pipelines.bulk.run import Run, now
from captionbeam.pipelines.workers.batches import Processor
from captionbeam.pipelines.workers.processors import prepare_alone
from captionbeam.schemas.machine import cores, os_threads, peak_rss, threads_each
from captionbeam.schemas.store.workers import WorkerRecord, write_worker

SHARDS = 2  # at work at a time
WINDOW, WINDOW_BYTES = 32, 128 << 20  # images that are read together, fewer where they are large
WINDOWS_AHEAD = 2
OTHERS = 64  # threads of Beam's harness, of gRPC and of pyarrow's input
SECONDS = 1.0  # between two looks at a process's record

_log = logging.getLogger(__name__)


class Gauge:
    """How many of something there are, and how many there were at most."""

    def __init__(self) -> None:
        self.now, self.most, self._lock = 0, 0, threading.Lock()

    def add(self, count: int) -> None:
        """That many more, or less."""
        with self._lock:
            self.now += count
            self.most = max(self.most, self.now)

    def see(self, count: int) -> None:
        """There are so many now."""
        with self._lock:
            self.now, self.most = count, max(self.most, count)

    @contextmanager
    def one(self) -> Iterator[None]:
        """One more while the block runs."""
        self.add(1)
        try:
            yield
        finally:
            self.add(-1)


class Engine:
    """A processor and what serves it. ``threads`` decode; None: as many as are due to a process that is alone.

    ``reader``, ``preparers`` and ``runners`` are pools that all shards at work share; ``limits`` are what the gauges
    never pass.
    """

    def __init__(
        self, processor: Processor, threads: int | None = None, worker: Worker | None = None
    ) -> None:
        self.processor, self.threads, self._worker = processor, threads or threads_each(None, 1), worker
        self.reader = ThreadPoolExecutor(SHARDS, "fetch")
        self.preparers = ThreadPoolExecutor(self.threads, "prepare")
        self.runners = ThreadPoolExecutor(processor.streams, "run")
        self.bundles, self.shards, self.images = Gauge(), Gauge(), Gauge()
        self.preparing, self.batches, self.os_threads = Gauge(), Gauge(), Gauge()
        self._turns = threading.Semaphore(SHARDS)
        self.limits = self._limits()

    @property
    def prepared_ahead(self) -> int:
        """Images of a shard that are made ready before the model asks for them."""
        return max(2 * self.processor.streams * self.processor.batch_size, WINDOW)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The block runs when it is its turn: at most SHARDS at a time."""
        with self.bundles.one(), self._turns, self.shards.one():
            yield
            self.os_threads.see(os_threads())

    def did(self, images: int) -> None:
        """Note a shard that was done here in the process's record, if it keeps one."""
        if self._worker is not None:
            self._worker.did(self, images)

    def write_record(self) -> None:
        """Bring that record up to date."""
        if self._worker is not None:
            self._worker.write(self)

    def most(self) -> dict[str, int]:
        """The gauges, by name."""
        return {name: gauge.most for name, gauge in vars(self).items() if isinstance(gauge, Gauge)}

    def _limits(self) -> dict[str, int]:
        streams, size = self.processor.streams, self.processor.batch_size
        shard = (WINDOWS_AHEAD + 1) * WINDOW + self.prepared_ahead + 1 + (streams + 2) * size
        return {
            "shards": SHARDS,
            "images": SHARDS * shard,
            "preparing": self.threads,
            "batches": streams,
            # prepare; torch, for the model and for whoever loads it; pyarrow | wait for a batch, and compute it
            "os_threads": OTHERS + cores() + SHARDS + 4 * self.threads + 2 * streams,
        }


class Worker:
    """This process's share of a run, kept in its record beside the run's plan."""

    def __init__(self, run: Run, threads: int) -> None:
        self._run, self._threads, self._token = run, threads, uuid.uuid4().hex[:8]
        self._started, self._written, self._lock = now(), float("-inf"), threading.Lock()
        self.models, self._shards, self._images = 0, 0, 0
        self._most: dict[str, int] = {}
        self._dirty = False

    def loaded(self, engine: Engine) -> None:
        """A model was loaded."""
        self.models += 1
        self._note(engine, 0, 0)
        self.write(engine)

    def did(self, engine: Engine, images: int) -> None:
        """A shard was done; the record follows within a second or so, if there is one more."""
        self._note(engine, 1, images)
        if time.monotonic() - self._written >= SECONDS:
            self.write(engine)

    def write(self, engine: Engine) -> None:
        """Bring the record up to date. That it cannot be written stops nothing: the commits are what counts."""
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
            shards=self._shards,
            images=self._images,
            peak_rss_bytes=peak_rss(),
            most=self._most,
            limits=engine.limits,
        )


_workers: dict[str, Worker] = {}
_loading = threading.Lock()


def load_engine(
    run: Run,
    load: Callable[[Mapping[str, Any]], Processor],
    settings: Mapping[str, Any],
    threads: int | None = None,
    processes: int = 1,
) -> Engine:
    """The engine of this process for ``run``, with the threads that are due to it; it keeps the process's record.

    ``threads`` and ``processes`` as ``threads_each`` takes them; ``load`` finds the threads among the settings.
    """
    with _loading:
        due = threads_each(threads, processes)
        worker = _workers.setdefault(run.folder, Worker(run, due))
        pa.set_cpu_count(due)
        engine = Engine(load({**settings, "threads": due}), due, worker)
        prepare_alone(engine.preparers, due)
        worker.loaded(engine)
    return engine
