"""Computes several batches in parallel, each on its own thread.

torch splits every layer among its threads, which synchronise about a hundred times per batch; one delayed thread (its
core also decodes images) delays all others. Separate batches do not synchronise. InceptionV3 in bfloat16 on two busy
cores with batches of 32: 31 images/s against 24.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

ROWS = 8  # minimum batch size: a smaller batch is faster alone on all threads
MOST = 8  # maximum number of streams, since each holds a batch's activations


T = TypeVar("T")


class Streams:
    """Number of batches a device computes in parallel: torch's number of threads on a CPU, else one."""

    def __init__(self, rows: int, device: str | torch.device = "cpu", threads: int | None = None) -> None:
        total, where = threads or torch.get_num_threads(), torch.device(device)
        self.count = min(total, MOST) if where.type == "cpu" and rows >= ROWS else 1
        # a thread's current device is where kernels without tensors run
        first = (torch.cuda.set_device, (where,)) if where.index is not None else (None, ())
        self._pool = ThreadPoolExecutor(self.count, "model", *first)
        share_threads(self._pool, self.count, max(1, total // self.count))

    def run(self, work: Callable[[], T]) -> T:
        """Runs ``work`` on the first free thread; returns its result or raises its error."""
        return self._pool.submit(work).result()


def share_threads(pool: ThreadPoolExecutor, count: int, threads: int) -> None:
    """Gives each of the new pool's ``count`` threads ``threads`` torch threads; other threads keep theirs.

    The number is kept per thread, but new threads start with the last one set.
    """
    before, started = torch.get_num_threads(), Barrier(count)

    def start(_: int) -> None:
        torch.get_num_threads()  # initialises the number; a later first call would reset it
        torch.set_num_threads(threads)
        started.wait()

    list(pool.map(start, range(count)))
    torch.set_num_threads(before)
