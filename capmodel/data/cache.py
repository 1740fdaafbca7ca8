"""A local cache of decoded grids in one memory-mapped file: epochs after the first decode no Parquet.

Decompressing zstd is nine tenths of the cost of reading a grid. All workers of the machine, and later runs on the
same snapshot, share the file. It takes ``images x bytes of a grid`` of disk (256 KiB for 8 x 8 x 2048), and helps most
if it fits in the page cache or if the store is remote.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
from collections.abc import Callable, Sequence

import numpy as np

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.store.reading import RowGroup, Store


class GridCache:
    """float16 rows ``[rows, L, C]`` of each row group of a snapshot, in ``folder``.

    ``NAME.grids`` has the rows of all groups in order; ``NAME.done`` has one byte per group, 1 once its rows are on
    disk. Concurrent writers of a group write the same bytes. Raises RequestError if the disk is too small.
    """

    def __init__(self, folder: str, store: Store, groups: Sequence[RowGroup]) -> None:
        shape = math.prod(store.shape[:-1]), store.shape[-1]
        identity = {"features": store.fingerprint, "run": store.snapshot.run, "snapshot": store.snapshot_id}
        name = os.path.join(folder, fingerprint(identity))
        self._starts = np.cumsum([0, *(group.live for group in groups)])
        size = int(self._starts[-1] * math.prod(shape) * 2)
        os.makedirs(folder, exist_ok=True)
        _reserve(f"{name}.grids", size)
        _reserve(f"{name}.done", len(groups))
        self._done = np.memmap(f"{name}.done", np.uint8, "r+", shape=(len(groups),))
        self._rows = np.memmap(f"{name}.grids", np.float16, "r+", shape=(int(self._starts[-1]), *shape))

    def read(self, group: int, decode: Callable[[int], np.ndarray]) -> np.ndarray:
        """Returns the rows of ``group``; calls ``decode`` and stores them if they are not cached."""
        start, end = self._starts[group : group + 2]
        rows = self._rows[start:end]
        if not self._done[group]:
            rows[:] = decode(group)
            row = self._rows[0].nbytes
            first = int(start) * row // mmap.PAGESIZE * mmap.PAGESIZE
            # on disk before the group is marked done, in case of a power failure
            self._rows._mmap.flush(first, int(end) * row - first)  # type: ignore[attr-defined]
            self._done[group] = 1
        return rows

    def has(self, groups: np.ndarray) -> bool:
        """Whether all rows of these ``groups`` are cached."""
        return bool(self._done[np.unique(groups)].all())

    def gather(self, groups: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Returns row ``positions[i]`` of ``groups[i]``, which must be cached: float16 [B, L, C]."""
        return self._rows[self._starts[groups] + positions]


def _reserve(path: str, size: int) -> None:
    """Creates a sparse file of ``size`` bytes, or keeps an existing one."""
    with open(path, "ab") as file:
        there = os.fstat(file.fileno())
        missing = size - there.st_blocks * 512
        free = shutil.disk_usage(os.path.dirname(path)).free
        if missing > free:
            raise RequestError(
                f"{path!r} needs {missing / 1e9:.1f} GB more, and its disk has {free / 1e9:.1f} GB; expected a cache "
                "folder on a disk with room, or none"
            )
        file.truncate(size)
