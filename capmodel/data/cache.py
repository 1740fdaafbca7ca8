"""Grids of a snapshot as they are trained on, kept in one file of this machine: epochs after the first read no Parquet.

Decoding zstd is nine tenths of what reading a grid costs. The file is mapped into memory by every worker of the
machine, and by later runs on the same snapshot. It takes ``images x bytes of a grid`` of disk (256 KiB for 8 x 8 x
2048), and is worth most where it fits the page cache beside everything else, or where the store is far away.
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
    """float16 rows ``[rows, L, C]`` of each of a snapshot's row groups, in ``folder``.

    ``NAME.grids`` holds them one after the other; ``NAME.done`` a byte a group, 1 once its rows are on disk. Two
    that fill the same group at once write the same bytes. Raises RequestError where the disk has no room.
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
        """The rows of ``group``, made by ``decode`` where they are not there yet."""
        start, end = self._starts[group : group + 2]
        rows = self._rows[start:end]
        if not self._done[group]:
            rows[:] = decode(group)
            self._write_out(int(start), int(end))
            self._done[group] = 1
        return rows

    def has(self, groups: np.ndarray) -> bool:
        """Whether all rows of all these ``groups`` are here."""
        return bool(self._done[np.unique(groups)].all())

    def gather(self, groups: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Row ``positions[i]`` of ``groups[i]``, which are here: float16 [B, L, C]."""
        return self._rows[self._starts[groups] + positions]

    def _write_out(self, start: int, end: int) -> None:
        """See that the rows are on disk before they are said to be: a machine may lose its power."""
        row = self._rows[0].nbytes
        first = start * row // mmap.PAGESIZE * mmap.PAGESIZE
        self._rows._mmap.flush(first, end * row - first)  # type: ignore[attr-defined]


def _reserve(path: str, size: int) -> None:
    """A file of ``size`` bytes, its holes taking no disk until they are filled; one that is there stays as it is."""
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
