"""Serve the Python processes that a Spark or Flink worker on this machine requests."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from dataclasses import dataclass

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.ui.terminal import say
from captionbeam.schemas.options import NAME, number, option


@dataclass(frozen=True, kw_only=True)
class ServeWorkers(Command):
    """Serves the Python processes of Spark's and Flink's workers on this machine."""

    HELP = """\
  captionbeam workers --port 50000                       # on each machine of the cluster

Starts a Python process for each Spark executor or Flink task manager on this machine that requests one. Jobs use it
with --environment_type EXTERNAL --environment_config localhost:50000. Runs until Ctrl-C or SIGTERM, which also end
its processes.
"""
    name = "workers"

    port: int = option(
        50000,
        "port to listen on (default 50000); 0 selects a free one",
        number(0, 65535, "a port from 0 to 65535", "PORT", whole=True),
    )
    host: str = option("localhost", "address to listen on; everyone who can reach it can run code here", NAME)
    storage_options: None = None

    def execute(self) -> Result:
        """Serves until Ctrl-C or SIGTERM."""
        from captionbeam.pipelines.runners.worker_pool import WorkerPool

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt), WorkerPool(self.port, self.host) as pool:
            say(f"workers for {self.host}:{pool.port}; Ctrl-C stops them")
            threading.Event().wait()
        return Result()
