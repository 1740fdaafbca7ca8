"""A features store as torch datasets: FeatureDataset (map-style) and IterableFeatureDataset, for DataLoader.

>>> from torch.utils.data import DataLoader
>>> from captionbeam.capmodel.data import IterableFeatureDataset
>>> dataset = IterableFeatureDataset("features", shuffle=True)                     # doctest: +SKIP
>>> for epoch in range(3):                                                         # doctest: +SKIP
...     dataset.set_epoch(epoch)
...     for image_ids, features in DataLoader(dataset, batch_size=64, num_workers=2):
...         ...                                                                    # float16 [B, H, W, C]
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from captionbeam.capmodel.data.cache import GridCache
from captionbeam.capmodel.data.loader import GroupWindow
from captionbeam.capmodel.data.pairing import ImagePositions, image_positions
from captionbeam.capmodel.data.sampler import even_parts, shuffled
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import options as storage_options
from captionbeam.schemas.store.reading import Store

Path = str | os.PathLike[str]
Row = tuple[str, Tensor]
"""An image's id, and its features: float16 ``[H, W, C]`` or ``[C]``."""


class _Features:
    """The rows of one snapshot. Picklable: each process opens files of its own, when it reads them."""

    def __init__(self, store: Path | Store, cache: Path | None = None) -> None:
        """``store``: a path or URL, ``STORE@TAG`` for another snapshot than the newest, or a Store.

        ``cache``: a local folder where row groups are kept decoded, for all processes of this machine and later runs.
        Raises StoreError, and RequestError if it is not a store of features.
        """
        self.store = store if isinstance(store, Store) else Store.open(store)
        if self.store.kind != "features":
            raise RequestError(f"{self.store.url} is a store of {self.store.kind}; expected one of features")
        self._cache_folder = None if cache is None else os.fspath(cache)
        self._positions: ImagePositions = image_positions(self.store)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.image_ids)

    @property
    def image_ids(self) -> list[str]:
        """The images' ids, in storage order."""
        return self._positions.ids

    def __getstate__(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name not in ("_cache", "_recent")}
        return {**own, "storage": storage_options.current()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        storage_options.use(state.pop("storage"))
        self.__dict__.update(state)

    @cached_property
    def _cache(self) -> GridCache | None:
        folder = self._cache_folder
        return None if folder is None else GridCache(folder, self.store, self._positions.groups)

    def _read_group(self, number: int) -> np.ndarray:
        """Returns the live rows of a row group: float16 ``[n, *shape]``."""
        rows = self._decode(number) if self._cache is None else self._cache.read(number, self._decode)
        return rows.reshape(-1, *self.store.shape)

    def _decode(self, number: int) -> np.ndarray:
        shape = self.store.shape
        batch = self.store.read_row_group(self._positions.groups[number], [self.store.column])
        return batch.column(0).to_numpy_ndarray().reshape(batch.num_rows, -1, shape[-1])

    def _row(self, index: int, group: np.ndarray) -> Row:
        return self.image_ids[index], torch.from_numpy(group[self._positions.position[index]].copy())


class FeatureDataset(_Features, Dataset[Row]):
    """Row ``i`` in storage order, as ``(image_id, float16 tensor)``.

    A row is read with its whole row group. The ``groups`` last used row groups are kept in each process, so samplers
    that jump between more of them decode rows again: use ``cache``, or IterableFeatureDataset.
    """

    def __init__(self, store: Path | Store, cache: Path | None = None, groups: int = 4) -> None:
        super().__init__(store, cache)
        self._groups = groups

    def __getitem__(self, index: int) -> Row:
        """Returns a row; a negative index counts from the end. Raises IndexError."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}; expected from {-len(self)} to {len(self) - 1}")
        return self._row(index % len(self), self._kept(int(self._positions.group[index])))

    def __getitems__(self, indices: Sequence[int]) -> list[Row]:
        """Returns the rows of a batch, row group by row group."""
        order = sorted(range(len(indices)), key=lambda at: int(self._positions.group[indices[at]]))
        rows = {at: self[int(indices[at])] for at in order}
        return [rows[at] for at in range(len(indices))]

    @cached_property
    def _recent(self) -> OrderedDict[int, np.ndarray]:
        return OrderedDict()

    def _kept(self, number: int) -> np.ndarray:
        recent = self._recent
        if number not in recent:
            recent[number] = self._read_group(number)
        recent.move_to_end(number)
        while len(recent) > self._groups:
            recent.popitem(last=False)
        return recent[number]


class IterableFeatureDataset(_Features, IterableDataset[Row]):
    """Each row once an epoch over all ranks and DataLoader workers, as ``(image_id, float16 tensor)``.

    Row groups are read once by each process that needs rows of them, ahead of their use. With ``shuffle``, the order
    depends on ``seed`` and the epoch, and neighbours come from about ``mix`` row groups. Ranks are those of
    torch.distributed where it is initialised, unless ``rank`` and ``world`` are given; their numbers of rows differ by
    at most one.
    """

    def __init__(
        self,
        store: Path | Store,
        cache: Path | None = None,
        shuffle: bool = False,
        seed: int = 0,
        mix: int = 16,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        super().__init__(store, cache)
        if (rank is None) != (world is None) or (rank is not None and not 0 <= rank < (world or 0)):
            raise RequestError(
                f"rank is {rank} and world {world}; expected both, and rank from 0 to world - 1"
            )
        self._shuffle, self._seed, self._mix = shuffle, seed, mix
        self._part = None if rank is None or world is None else (rank, world)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # persistent workers see it change

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of later iterations, in workers too."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        """Returns the number of rows of this rank."""
        rank, world = self._ranks()
        return len(even_parts(np.arange(super().__len__()), world)[rank])

    def __iter__(self) -> Iterator[Row]:
        """Yields the rows of this rank and DataLoader worker."""
        worker, groups = get_worker_info(), self._positions.group
        rank, world = self._ranks()
        own = even_parts(self._order(), world)[rank]
        if worker is not None:
            own = even_parts(own, worker.num_workers)[worker.id]
        with GroupWindow(self._read_group, groups[own]) as window:
            for index in own.tolist():
                yield self._row(index, window.take(int(groups[index])))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_part": self._ranks()}  # a worker process has no torch.distributed

    def _ranks(self) -> tuple[int, int]:
        if self._part is not None:
            return self._part
        ranks = torch.distributed
        if ranks.is_available() and ranks.is_initialized():
            return ranks.get_rank(), ranks.get_world_size()
        return 0, 1

    def _order(self) -> np.ndarray:
        groups = self._positions.group
        if not self._shuffle:
            return np.arange(len(groups))
        return shuffled(groups, self._mix, self._seed, int(self._epoch[0]))[0]
