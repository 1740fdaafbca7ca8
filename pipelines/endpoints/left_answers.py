"""Answers that killed runs left, indexed once a process and run: SHA-256 of the image's bytes to a part and a row.

The plan of a later run may cut other shards, so an attempt cannot know which parts have the answers of its images.
The index takes about 70 bytes an answer; the answers themselves stay in the parts, of which a bounded number is kept.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.endpoints.answer_parts import READERS, left_parts, read_part
from captionbeam.pipelines.endpoints.prompts import Prompt
from captionbeam.schemas.errors import StoreError

CACHED_BYTES = 64 << 20  # of parts' tables in a process
RUNS = 2  # whose indexes a process keeps

_log = logging.getLogger(__name__)


class PartCache:
    """The tables of the parts that were read last, up to ``limit`` bytes. Threads may share it."""

    def __init__(self, limit: int = CACHED_BYTES) -> None:
        self._limit, self._bytes, self._lock = limit, 0, threading.Lock()
        self._tables: OrderedDict[tuple[str, str], pa.Table] = OrderedDict()

    def table(self, url: str, path: str) -> pa.Table | None:
        """Returns a part's rows; None if it vanished, or if it is broken, which is logged. Raises OSError."""
        with self._lock:
            if (url, path) in self._tables:
                self._tables.move_to_end((url, path))
                return self._tables[url, path]
        try:
            table = read_part(url, path)
        except FileNotFoundError:
            return None
        except StoreError as err:
            _log.warning("kept answers are passed over: %s", err)
            return None
        with self._lock:
            if (url, path) not in self._tables:
                self._tables[url, path], self._bytes = table, self._bytes + table.nbytes
            while self._bytes > self._limit:
                self._bytes -= self._tables.popitem(last=False)[1].nbytes
        return table


PARTS = PartCache()


class LeftAnswers:
    """The answers to one prompt that other runs than ``run`` left. Threads may share it."""

    def __init__(self, run: Run, prompt: str) -> None:
        self._url, self._lock = run.url, threading.Lock()
        self._paths = left_parts(run.url, prompt, run.run_id)
        with ThreadPoolExecutor(READERS) as pool:
            contents = list(pool.map(self._contents, self._paths))
        self._uncovered: dict[str, set[str]] = {}
        lengths = [len(some) for some in contents]
        keys = np.concatenate([np.empty(0, "S64"), *contents])
        order = np.argsort(keys, kind="stable")  # where two parts have one key, the first by name stays first
        self._keys = keys[order]
        self._parts = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[order]
        self._rows = np.concatenate(
            [np.empty(0, np.int32), *(np.arange(n, dtype=np.int32) for n in lengths)]
        )[order]

    def __len__(self) -> int:
        return len(self._keys)

    def place(self, content: str) -> tuple[str, int] | None:
        """Returns the part and the row with the answers about an image of this ``content``, or None."""
        key = np.array(content, "S64")
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            return None
        return self._paths[self._parts[at]], int(self._rows[at])

    def cover(self, path: str, images: Collection[str]) -> bool:
        """Notes that commits have ``images``. Returns whether they have all images of the part at ``path``."""
        table = None if path in self._uncovered else PARTS.table(self._url, path)
        with self._lock:
            if table is not None:
                self._uncovered.setdefault(path, set(table.column("image_id").to_pylist()))
            left = self._uncovered.get(path)
            if left is None:
                return False
            left.difference_update(images)
            return not left

    def _contents(self, path: str) -> Any:
        table = PARTS.table(self._url, path)
        if table is None:
            return np.empty(0, "S64")
        return np.array(table.column("content").to_pylist(), "S64")


_indexes: OrderedDict[tuple[str, str, tuple[str, ...]], dict[str, LeftAnswers]] = OrderedDict()
_indexing = threading.Lock()


def left_answers(run: Run, prompts: Sequence[Prompt]) -> dict[str, LeftAnswers]:
    """Returns what other runs left, by the prompts' fingerprints. Reads it the first time for a run. Raises OSError."""
    fingerprints = tuple(prompt.fingerprint for prompt in prompts)
    key = run.url, run.run_id, fingerprints
    with _indexing:
        if key not in _indexes:
            _indexes[key] = {one: LeftAnswers(run, one) for one in fingerprints}
        _indexes.move_to_end(key)
        while len(_indexes) > RUNS:
            _indexes.popitem(last=False)
        return _indexes[key]
