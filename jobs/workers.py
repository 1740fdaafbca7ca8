"""Serve the Python processes that a Spark or Flink worker on this machine requests."""

from __future__ import annotations

import argparse
import signal
import threading
from contextlib import suppress

HELP = """\
  captionbeam workers --port 50000                       # on each machine of the cluster

Serves until Ctrl-C or SIGTERM, which end its processes too. Spark's executors and Flink's task managers on this
machine each get a Python process from it, for a job that is started with --environment_type EXTERNAL
--environment_config localhost:50000.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``captionbeam workers``."""
    parser.add_argument(
        "--port", type=_port, default=50000, metavar="N", help="to listen on (default 50000; 0: a free one)"
    )
    parser.add_argument(
        "--host",
        default="localhost",
        metavar="NAME",
        help="address to listen on; whoever reaches it can run code here (default localhost)",
    )


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Serves until Ctrl-C or SIGTERM, which also stop the workers."""
    from captionbeam.pipelines.runners.worker_pool import WorkerPool

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), WorkerPool(options.port, options.host) as pool:
        print(f"workers for {options.host}:{pool.port}; Ctrl-C stops them", flush=True)
        threading.Event().wait()
    return 0


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)
