"""``process_shard``: from references to a commit, in one worker. Needs neither Beam nor torch.

Bytes are fetched a window at a time, a few windows ahead; prepared (decoded, resized) by a pool of threads; run in
batches, as many side by side as the processor computes; written by another thread. Queues between them are bounded,
so that memory does not grow with the number of images.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.batches import BatchResult, Prepared, Processor, run_batch
from pipelines.output import Done, ShardOutput
from pipelines.run import Run
from schemas import layout
from schemas.errors import ImageError
from schemas.records import Failure, ImageRef, ShardReport

WINDOW = 32
WINDOWS_AHEAD = 2

Item = bytes | np.ndarray
Fetched = tuple[
    list[ImageRef], Item | ImageError
]  # images of the same bytes, and these, or why there are none
Fetch = Callable[[Sequence[ImageRef]], Sequence[Item | ImageError]]


class Tally:
    """What a shard cost: images, bytes, and milliseconds by stage, the unit in each name."""

    def __init__(self, seen: Callable[[int], None] | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._seen, self._lock = seen, threading.Lock()

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Add the time that the block takes; that of several threads adds up."""
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            with self._lock:
                self.counts[name] += (time.perf_counter_ns() - start) // 1_000_000

    def done(self, images: int) -> None:
        """Images that are through the model, or failed."""
        self.counts["images"] += images
        if self._seen is not None:
            self._seen(images)


def process_shard(
    shard: str,
    refs: Sequence[ImageRef],
    processor: Processor,
    run: Run,
    fetch: Fetch,
    threads: int | None = None,
    seen: Callable[[int], None] | None = None,
) -> tuple[ShardReport, Counter[str]]:
    """Read, prepare, run and commit one shard; at once where its commit exists.

    ``fetch`` gives a window of references' items in order; ``seen`` hears how many images went through. Raises
    SystemicError for what is no single image's fault; then nothing is committed.
    """
    earlier = layout.load_commit(run.url, shard)
    if earlier is not None:
        return ShardReport(shard, earlier.rows, earlier.failed, earlier.bytes, fresh=False), Counter()
    tally = Tally(seen)
    with ShardOutput(run, shard, processor.schema) as output, _pools(threads, processor.streams) as pools:
        with tally.timing("shard_msecs"):
            fetched = _alike(_fetched(refs, fetch, pools.reader, tally), run.kind == "features")
            prepared = _prepared(fetched, processor, pools.preparers, output, tally)
            _run_all(prepared, processor, pools.runners, output, tally)
        commit = output.commit(dict(tally.counts))
    report = ShardReport(shard, commit.rows, commit.failed, commit.bytes, fresh=True)
    return report, tally.counts


class _Pools(NamedTuple):
    reader: ThreadPoolExecutor
    preparers: ThreadPoolExecutor
    runners: ThreadPoolExecutor


@contextmanager
def _pools(threads: int | None, streams: int) -> Iterator[_Pools]:
    pools = _Pools(
        ThreadPoolExecutor(1, "fetch"),
        ThreadPoolExecutor(threads or os.cpu_count() or 1, "prepare"),
        ThreadPoolExecutor(streams, "run"),
    )
    try:
        yield pools
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _fetched(
    refs: Sequence[ImageRef], fetch: Fetch, reader: ThreadPoolExecutor, tally: Tally
) -> Iterator[tuple[ImageRef, Item | ImageError]]:
    def read(window: Sequence[ImageRef]) -> Sequence[Item | ImageError]:
        with tally.timing("fetch_msecs"):
            return fetch(window)

    windows = [refs[start : start + WINDOW] for start in range(0, len(refs), WINDOW)]
    for window, items in _ahead(windows, lambda window: reader.submit(read, window), WINDOWS_AHEAD):
        for ref, item in zip(window, items, strict=True):
            tally.counts["bytes_read"] += getattr(item, "nbytes", 0) or (
                len(item) if isinstance(item, bytes) else 0
            )
            yield ref, item


def _alike(fetched: Iterable[tuple[ImageRef, Item | ImageError]], joining: bool) -> Iterator[Fetched]:
    """Neighbours of the same bytes as one, if ``joining``: not for captions, whose draws depend on the image's id."""
    refs: list[ImageRef] = []
    content: Item | ImageError = b""
    for ref, item in fetched:
        if joining and refs and isinstance(item, bytes) and isinstance(content, bytes) and item == content:
            refs.append(ref)
            continue
        if refs:
            yield refs, content
        refs, content = [ref], item
    if refs:
        yield refs, content


def _prepared(
    fetched: Iterable[Fetched],
    processor: Processor,
    preparers: ThreadPoolExecutor,
    output: ShardOutput,
    tally: Tally,
) -> Iterator[Prepared]:
    def prepare(pair: Fetched) -> Prepared | ImageError:
        (ref, *copies), item = pair
        if isinstance(item, ImageError):
            return item
        content = hashlib.sha256(item).hexdigest() if isinstance(item, bytes) else ""
        try:
            return Prepared(ref, content, processor.prepare(item), copies)
        except ImageError as err:
            return err

    ahead = max(2 * processor.streams * processor.batch_size, WINDOW)
    for (refs, _), result in _ahead(fetched, lambda pair: preparers.submit(prepare, pair), ahead):
        if isinstance(result, ImageError):
            _fail(output, refs, result, tally)
        else:
            yield result


def _ahead(
    items: Iterable[Any], submit: Callable[[Any], Future[Any]], depth: int
) -> Iterator[tuple[Any, Any]]:
    """Each item with its future's result, in order, ``depth`` futures ahead."""
    waiting: deque[tuple[Any, Future[Any]]] = deque()
    try:
        for item in items:
            waiting.append((item, submit(item)))
            if len(waiting) > depth:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _run_all(
    prepared: Iterator[Prepared],
    processor: Processor,
    runners: ThreadPoolExecutor,
    output: ShardOutput,
    tally: Tally,
) -> None:
    def run(batch: Sequence[Prepared]) -> list[BatchResult]:
        with tally.timing("model_msecs"):
            return run_batch(batch, processor)

    batches = iter(lambda: list(islice(prepared, processor.batch_size)), [])
    for _, results in _ahead(batches, lambda batch: runners.submit(run, batch), processor.streams):
        for part, result in results:
            if isinstance(result, ImageError):
                _fail(output, part[0].refs, result, tally)
            else:
                done = [Done(ref, item.content) for item in part for ref in item.refs]
                output.add(done, _for_all(part, result))
                tally.counts["copies"] += len(done) - len(part)
                tally.done(len(done))


def _for_all(part: Sequence[Prepared], columns: dict[str, Any]) -> dict[str, Any]:
    """A batch's rows, each as often as there are images of its bytes."""
    if not any(item.copies for item in part):
        return columns
    rows = np.repeat(np.arange(len(part)), [len(item.refs) for item in part])
    return {
        name: values[rows] if isinstance(values, np.ndarray) else values.take(pa.array(rows))
        for name, values in columns.items()
    }


def _fail(output: ShardOutput, refs: Sequence[ImageRef], error: ImageError, tally: Tally) -> None:
    why = (error.stage, error.code, error.message)
    for ref in refs:
        output.fail(Failure(ref.image_id, ref.location, ref.version, ref.source, *why, ref.replaces))
    tally.counts[f"failed_{error.code}"] += len(refs)
    tally.done(len(refs))
