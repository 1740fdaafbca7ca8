"""Reads a features snapshot for training, one row group at a time.

Shapes: B images of a rank's part of a step, L cells of a grid (H*W; 1 for pooled features), C channels, N captions
per image, T tokens per caption (START..END, then PAD).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch

from captionbeam.capmodel.data.cache import GridCache
from captionbeam.capmodel.data.pairing import Samples
from captionbeam.capmodel.tokenizers import END, PAD, START
from captionbeam.schemas.store.reading import Store

READ_AHEAD = 2
READY_BATCHES = 2
T = TypeVar("T")
Gather = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(row groups [B], positions there [B]) -> float16 [B, L, C]."""


class Batch(NamedTuple):
    """One rank's part of one step.

    ``features`` float16 [B, L, C]; ``tokens`` int64 [B, N, T]; ``rows`` [B] of the token table; ``captions`` [B, N]:
    index of each caption among its image's, -1 for none, or None for all in order. A part without images has one blank
    image with an empty caption, so that its rank can take part in the step; its ``rows`` is empty, and its words must
    not be counted.
    """

    features: torch.Tensor
    tokens: torch.Tensor
    rows: np.ndarray
    captions: np.ndarray | None = None


class CaptionTokens:
    """The token table's ``tokens`` column, read from its memory map without copying."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [
            (chunk.offsets.to_numpy(), chunk.values.offsets.to_numpy(), chunk.values.values.to_numpy())
            for chunk in column.chunks
        ]
        self._first = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])

    def __getitem__(self, row: int) -> list[np.ndarray]:
        """Returns the captions of one image, int32 [T] each."""
        chunk = int(np.searchsorted(self._first, row, side="right")) - 1
        captions, starts, values = self._chunks[chunk]
        local = row - self._first[chunk]
        numbers = range(captions[local], captions[local + 1])
        return [values[starts[number] : starts[number + 1]] for number in numbers]

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Returns the number of tokens of each caption of ``rows``, int64 [B, N]; 0 after an image's last caption."""
        sizes = [[len(caption) for caption in self[row]] for row in rows]
        table = np.zeros((len(rows), max(map(len, sizes), default=0)), dtype=np.int64)
        for number, image in enumerate(sizes):
            table[number, : len(image)] = image
        return table

    def padded(self, rows: Sequence[int] | np.ndarray, chosen: np.ndarray | None = None) -> torch.Tensor:
        """Returns int64 [B, N, T] for the images in ``rows``: N the most captions of an image, T the longest caption.

        ``chosen[i]`` selects captions of image i (-1 selects none); None selects all.
        """
        images = [self[row] for row in rows]
        if chosen is not None:
            images = [
                [image[which] for which in some if which >= 0]
                for image, some in zip(images, chosen, strict=True)
            ]
        captions = max((len(image) for image in images), default=1)
        length = max((len(caption) for image in images for caption in image), default=2)
        table = np.full((len(images), max(1, captions), max(2, length)), PAD, dtype=np.int64)
        for number, image in enumerate(images):
            for which, caption in enumerate(image):
                table[number, which, : len(caption)] = caption
        return torch.from_numpy(table)


class FeatureReader:
    """Reads the batches of one split of a snapshot.

    Row groups are read in the order of their first use, ``READ_AHEAD`` of them early, and released after their last
    use; ``READY_BATCHES`` batches are prepared in advance. Both use background threads. With a ``cache``, a row group
    is decoded once on this machine.
    """

    def __init__(
        self, store: Store, tokens: CaptionTokens, samples: Samples, cache: GridCache | None = None
    ) -> None:
        self.store, self.tokens, self.samples, self.cache = store, tokens, samples, cache
        channels = store.shape[-1]
        self.shape = (int(np.prod(store.shape)) // channels, channels)

    def batches(
        self, steps: Sequence[np.ndarray], captions: Sequence[np.ndarray | None] | None = None
    ) -> Generator[Batch]:
        """Yields one Batch for each of ``steps``, which are indexes of samples. Close the iterator to stop early.

        ``captions[s]`` [B, N] selects captions of step s's images, as in ``CaptionTokens.padded``.
        """
        return prefetched(self._read(steps, captions or [None] * len(steps)), READY_BATCHES)

    def _read(self, steps: Sequence[np.ndarray], captions: Sequence[np.ndarray | None]) -> Generator[Batch]:
        used = self.samples.group[np.concatenate(steps)] if len(steps) else np.empty(0, np.int64)
        if self.cache is not None and self.cache.has(used):
            for step, chosen in zip(steps, captions, strict=True):
                yield self._batch(step, chosen, self.cache.gather)
            return
        with GroupWindow(self.read_group, used) as window:
            for step, chosen in zip(steps, captions, strict=True):
                yield self._batch(step, chosen, window.gather)

    def read_group(self, number: int) -> np.ndarray:
        """Returns all live rows of one row group: float16 [rows, L, C]."""
        return self._decode(number) if self.cache is None else self.cache.read(number, self._decode)

    def _decode(self, number: int) -> np.ndarray:
        batch = self.store.read_row_group(self.samples.groups[number], [self.store.column])
        return batch.column(0).to_numpy_ndarray().reshape(-1, *self.shape)

    def _batch(self, step: np.ndarray, chosen: np.ndarray | None, gather: Gather) -> Batch:
        rows = self.samples.row[step]
        if not len(step):
            return Batch(
                torch.zeros(1, *self.shape, dtype=torch.float16), torch.tensor([[[START, END]]]), rows
            )
        features = gather(self.samples.group[step], self.samples.position[step])
        return Batch(torch.from_numpy(features), self.tokens.padded(rows, chosen), rows, chosen)


class GroupWindow:
    """The open row groups: read ahead of their first use and released after their last.

    ``used``: the row group of every future sample, in order.
    """

    def __init__(self, read: Callable[[int], np.ndarray], used: np.ndarray) -> None:
        self._read, self._uses_left = read, Counter(used.tolist())
        self._waiting = deque(dict.fromkeys(used.tolist()))
        self._open: dict[int, Future[np.ndarray]] = {}
        self._untouched: set[int] = set()
        self._pool = ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="row-group")

    def __enter__(self) -> GroupWindow:
        for _ in range(READ_AHEAD):
            self._open_next()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self, group: int) -> np.ndarray:
        """Returns the rows of ``group`` and counts one use of it."""
        if group in self._untouched:
            self._untouched.remove(group)
            self._open_next()
        rows = self._open[group].result()
        self._uses_left[group] -= 1
        if not self._uses_left[group]:
            del self._open[group]
        return rows

    def gather(self, groups: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Returns the row at ``positions[i]`` of ``groups[i]``, float16 [B, ...], and counts one use of each."""
        return np.stack(
            [self.take(group)[position] for group, position in zip(groups, positions, strict=True)]
        )

    def _open_next(self) -> None:
        if self._waiting:
            group = self._waiting.popleft()
            self._untouched.add(group)
            self._open[group] = self._pool.submit(self._read, group)


def prefetched(items: Generator[T], depth: int) -> Generator[T]:
    """Yields ``items`` (none of them None), produced by a background thread at most ``depth`` ahead."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        ahead = deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := ahead.popleft().result()) is not None:
            ahead.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        items.close()
