"""Several batches computed side by side, each on a thread of its own.

torch splits every single layer among its threads, which then wait for each other a hundred times a batch; one
that is late (it shares its core with an image being decoded) holds all the others up. Threads with a batch each
never wait. InceptionV3 in bfloat16 on two busy cores, batches of 32, the two alternating: 31 images/s against 24.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

ROWS = 8  # of a batch, at least: with fewer a batch that is alone is better off with all threads
MOST = 8  # each holds a batch's activations


T = TypeVar("T")


class Streams:
    """How many batches a device computes at a time: on a CPU as many as torch has threads, else one."""

    def __init__(self, rows: int, device: str = "cpu", threads: int | None = None) -> None:
        total = threads or torch.get_num_threads()
        self.count = min(total, MOST) if device == "cpu" and rows >= ROWS else 1
        self._pool = ThreadPoolExecutor(self.count, "model")
        share_threads(self._pool, self.count, max(1, total // self.count))

    def run(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, or raises, on the first thread that is free."""
        return self._pool.submit(work).result()


def share_threads(pool: ThreadPoolExecutor, count: int, threads: int) -> None:
    """Let torch compute on ``threads`` in each of the new pool's ``count`` threads; the others keep theirs.

    Their number is kept by thread, but new threads begin with the last one set.
    """
    before, started = torch.get_num_threads(), Barrier(count)

    def start(_: int) -> None:
        torch.get_num_threads()  # a thread's first call sets its number: now, not after ours
        torch.set_num_threads(threads)
        started.wait()

    list(pool.map(start, range(count)))
    torch.set_num_threads(before)
