"""``captionbeam workers``: what runs on each machine of a cluster beside Spark's or Flink's worker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.builders.running.commands import environment
from tests.builders.running.processes import await_true, children_of, listens, running
from tests.builders.web.servers import free_port


@dataclass(frozen=True)
class WorkerPool:
    """A running pool. ``flags`` lead a job to it."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def flags(self) -> list[str]:
        """The two flags that a job needs."""
        return ["--environment_type", "EXTERNAL", "--environment_config", f"localhost:{self.port}"]

    def workers(self) -> list[psutil.Process]:
        """The Python processes that it has started and that live, each forked from its fork server."""
        below = children_of(self.process, "multiprocessing.forkserver")
        return [worker for worker in below if worker.ppid() != self.process.pid]


@contextmanager
def worker_pool(folder: Path) -> Iterator[WorkerPool]:
    """A worker pool of this environment's Python."""
    port, log = free_port(), folder / "worker_pool.log"
    command = [sys.executable, "-m", "captionbeam", "workers", "--port", str(port)]
    with running(command, log, environment()) as process:
        await_true("the worker pool", lambda: listens(port), log=log)
        yield WorkerPool(process, port, log)
