"""``process_shard``: from references to a commit on one worker. This module uses neither Beam nor torch.

Bytes are fetched in windows (32 images or 128 MiB), a few windows ahead; prepared (decoded, resized) by a pool of
threads; run in batches, as many concurrently as the processor supports; and written by another thread. The queues
between these steps are bounded, so memory does not grow with the number of images. The pools belong to the engine, so
memory does not grow with the number of shards either. Rows with unchanged content are copied.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.workers.batches import (
    BatchResult,
    KeepsRows,
    PerShard,
    Prepared,
    Processor,
    ShardProcessor,
    in_batches,
    prepare_image,
    run_batch,
    used_by,
)
from captionbeam.pipelines.workers.engine import WINDOW, WINDOW_BYTES, WINDOWS_AHEAD, Engine, Gauge
from captionbeam.pipelines.workers.exif import read_exif
from captionbeam.pipelines.workers.output import Done, ShardOutput
from captionbeam.pipelines.workers.reuse import Reuse
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.records import Failure, ImageRef, ShardReport
from captionbeam.schemas.store import layout

Item = bytes | np.ndarray
Fetch = Callable[[Sequence[ImageRef]], Sequence[Item | ImageError]]


class Result(NamedTuple):
    """Processed images and their rows, by column, or the error on which they fail."""

    done: Sequence[Done]
    columns: dict[str, Any] | ImageError


class Fetched:
    """Images with the same bytes, the bytes until they are prepared, or an error, and what the file says of itself."""

    def __init__(self, refs: list[ImageRef], item: Item | ImageError) -> None:
        self.refs, self._item = refs, item
        self.exif: Mapping[str, Any] = {}
        self.bytes = len(item) if isinstance(item, bytes) else 0

    def take(self) -> Item | ImageError:
        """Returns the bytes or the error, and releases them."""
        item, self._item, self.bytes = self._item, b"", 0
        return item


class Tally:
    """A shard's costs: images, bytes, and milliseconds per stage, with the unit in each name.

    ``held`` is the engine's gauge of images in memory. ``close`` removes this shard's images from it.
    """

    def __init__(self, held: Gauge, seen: Callable[[int], None] | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._held, self._holding = held, 0
        self._seen, self._lock = seen, threading.Lock()

    def close(self) -> None:
        """Removes the shard's remaining images from the gauge."""
        self.hold(-self._holding)

    def hold(self, images: int) -> None:
        """Adds images whose bytes or tensors are in memory; a negative number removes them."""
        self._holding += images
        self._held.add(images)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Adds the block's duration. Durations of several threads are summed."""
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            with self._lock:
                self.counts[name] += (time.perf_counter_ns() - start) // 1_000_000

    def done(self, images: int, held: int) -> None:
        """Counts images that are processed or failed, and how many of them were in memory (copies count once)."""
        self.hold(-held)
        self.counts["images"] += images
        if self._seen is not None:
            self._seen(images)


def process_shard(
    shard: str,
    refs: Sequence[ImageRef],
    engine: Engine,
    run: Run,
    fetch: Fetch,
    seen: Callable[[int], None] | None = None,
) -> tuple[ShardReport, Counter[str]]:
    """Reads, prepares, runs and commits one shard. Returns at once if its commit exists.

    ``fetch`` returns the items of a window of references in order; ``seen`` receives the number of processed images.
    Raises SystemicError, without a commit, for errors that do not concern a single image.
    """
    with engine.turn():
        earlier = layout.load_commit(run.url, shard)
        if earlier is not None:
            return ShardReport(shard, earlier.rows, earlier.failed, earlier.bytes, fresh=False), Counter()
        with (
            closing(Tally(engine.images, seen)) as tally,
            _opened(engine.processor, run, shard, refs) as processor,
            ShardOutput(run, shard, processor.schema) as output,
        ):
            with tally.timing("shard_msecs"):
                _run_shard(refs, engine, processor, run, fetch, output, tally)
            tally.counts.update(processor.counts if isinstance(processor, ShardProcessor) else {})
            commit = output.commit(dict(tally.counts))
            if isinstance(processor, ShardProcessor):
                processor.committed(output.failed)
    return ShardReport(shard, commit.rows, commit.failed, commit.bytes, fresh=True), tally.counts


def _opened(
    processor: Processor, run: Run, shard: str, refs: Sequence[ImageRef]
) -> AbstractContextManager[Processor]:
    return (
        processor.open_shard(run, shard, refs) if isinstance(processor, PerShard) else nullcontext(processor)
    )


def _run_shard(
    refs: Sequence[ImageRef],
    engine: Engine,
    processor: Processor,
    run: Run,
    fetch: Fetch,
    output: ShardOutput,
    tally: Tally,
) -> None:
    joining = processor.joins if isinstance(processor, ShardProcessor) else run.kind == "features"
    reuse = Reuse(run, refs)
    with closing(process_images(refs, engine, processor, fetch, tally, joining, reuse, run.exif)) as results:
        for done, result in results:
            if not isinstance(result, ImageError):
                output.add([_as_earlier(processor, image) for image in done], result)
                continue
            for image in done:
                kept = processor.kept(image.ref.image_id) if isinstance(processor, KeepsRows) else None
                if kept is None:
                    output.fail(failure_of(image.ref, result), image.exif)
                    continue
                tally.counts[f"failed_{result.code}"] -= 1
                output.add([_as_earlier(processor, image)], kept)
    for done, columns in reuse.rows(processor.schema):
        output.add(done, columns)


def _as_earlier(processor: Processor, image: Done) -> Done:
    """Returns an image, with the content and exif of the file that its earlier row is of if that row stays."""
    earlier = processor.earlier(image.ref.image_id) if isinstance(processor, KeepsRows) else None
    return image if earlier is None else Done(image.ref, *earlier)


def process_images(
    refs: Sequence[ImageRef],
    engine: Engine,
    processor: Processor,
    fetch: Fetch,
    tally: Tally,
    joining: bool,
    reuse: Reuse | None = None,
    exif: Sequence[str] = (),
) -> Generator[Result]:
    """Yields the rows of all images, batch by batch, and their failures; except rows that ``reuse`` takes.

    ``processor``: the engine's, or the shard's own. ``joining``: compute neighbours with the same bytes once. ``exif``:
    names of what to read of each image file about itself. Close the generator to stop early: no waiting task of these
    images then starts in the engine's pools. Raises SystemicError.
    """
    failed: deque[Result] = deque()
    with (
        closing(_fetched(refs, fetch, engine, tally)) as fetched,
        closing(_alike(fetched, processor, joining, tally)) as unlike,
        closing(_prepared(unlike, engine, processor, reuse, failed, tally, exif)) as prepared,
        closing(_run_all(prepared, engine, processor, tally)) as results,
    ):
        for result in results:
            yield result
            while failed:
                yield failed.popleft()
        yield from failed


def failure_of(ref: ImageRef, error: ImageError) -> Failure:
    """Returns the failure row of an image."""
    place = (ref.image_id, ref.location, ref.version, ref.source)
    return Failure(*place, error.stage, error.code, error.message, ref.replaces, ref.columns)


def windows(refs: Sequence[ImageRef]) -> Iterator[list[ImageRef]]:
    """Yields references to read together: at most WINDOW, and at most WINDOW_BYTES of expected size."""
    window: list[ImageRef] = []
    expected = 0
    for ref in refs:
        expected += ref.expected_bytes
        if window and (len(window) == WINDOW or expected > WINDOW_BYTES):
            yield window
            window, expected = [], ref.expected_bytes
        window.append(ref)
    if window:
        yield window


def _fetched(
    refs: Sequence[ImageRef], fetch: Fetch, engine: Engine, tally: Tally
) -> Generator[tuple[ImageRef, Item | ImageError]]:
    def read(window: Sequence[ImageRef]) -> Sequence[Item | ImageError]:
        with tally.timing("fetch_msecs"):
            return fetch(window)

    def submit(window: Sequence[ImageRef]) -> Future[Any]:
        tally.hold(len(window))
        return engine.reader.submit(read, window)

    def size(window: Sequence[ImageRef]) -> int:
        return sum(ref.expected_bytes for ref in window)

    for window, items in _ahead(windows(refs), submit, WINDOWS_AHEAD, size):
        for ref, item in zip(window, items, strict=True):
            tally.counts["bytes_read"] += getattr(item, "nbytes", 0) or (
                len(item) if isinstance(item, bytes) else 0
            )
            yield ref, item
        del items  # frees memory before the next window


def _alike(
    fetched: Iterable[tuple[ImageRef, Item | ImageError]], processor: Processor, joining: bool, tally: Tally
) -> Generator[Fetched]:
    """Joins neighbours with the same bytes, and the same values for ``processor``, if ``joining``.

    Captions that may be drawn are not joined: their draws depend on the id.
    """
    refs: list[ImageRef] = []
    content: Item | ImageError = b""
    for ref, item in fetched:
        same = joining and refs and isinstance(item, bytes) and isinstance(content, bytes) and item == content
        if same and used_by(processor, ref) == used_by(processor, refs[0]):
            refs.append(ref)
            tally.hold(-1)
            continue
        if refs:
            yield Fetched(refs, content)
        refs, content = [ref], item
    if refs:
        yield Fetched(refs, content)


def _prepared(
    fetched: Iterable[Fetched],
    engine: Engine,
    processor: Processor,
    reuse: Reuse | None,
    failed: deque[Result],
    tally: Tally,
    exif: Sequence[str],
) -> Generator[Prepared]:
    """Yields prepared images in order; adds those that cannot be fetched or decoded to ``failed``."""

    def prepare(fetched: Fetched) -> Prepared | ImageError | None:
        (ref, *copies), item = fetched.refs, fetched.take()
        if isinstance(item, ImageError):
            return item
        content = _content_of(item)
        if exif and isinstance(item, bytes):
            fetched.exif = read_exif(item, exif)
        if reuse is not None and reuse.take([ref, *copies], content, fetched.exif):
            return None
        try:
            with engine.preparing.one():
                value = prepare_image(processor, item, ref)
                return Prepared(ref, content, value, copies, fetched.exif)
        except ImageError as err:
            return err

    def submit(fetched: Fetched) -> Future[Any]:
        return engine.preparers.submit(prepare, fetched)

    for images, result in _ahead(fetched, submit, engine.prepared_ahead, lambda images: images.bytes):
        if isinstance(result, ImageError):
            failed.append(_failed(images.refs, result, tally, images.exif))
        elif result is None:
            tally.counts["reused"] += len(images.refs)
            tally.done(len(images.refs), held=1)
        else:
            yield result


def _content_of(item: Item) -> str:
    """Returns the SHA-256 of an image's bytes, or of a row's numbers."""
    data = np.ascontiguousarray(item).data if isinstance(item, np.ndarray) else item
    return hashlib.sha256(data).hexdigest()


def _ahead(
    items: Iterable[Any],
    submit: Callable[[Any], Future[Any]],
    depth: int,
    size: Callable[[Any], int] = lambda item: 0,
) -> Iterator[tuple[Any, Any]]:
    """Yields each item with its future's result, in order, up to ``depth`` futures ahead, within WINDOW_BYTES."""
    waiting: deque[tuple[Any, Future[Any]]] = deque()
    try:
        for item in items:
            waiting.append((item, submit(item)))
            while len(waiting) > depth or sum(size(item) for item, _ in waiting) > WINDOW_BYTES:
                yield _done(*waiting.popleft())
        while waiting:
            yield _done(*waiting.popleft())
    finally:
        for _, future in waiting:
            future.cancel()


def _done(item: Any, future: Future[Any]) -> tuple[Any, Any]:
    return item, future.result()


def _run_all(
    prepared: Iterator[Prepared], engine: Engine, processor: Processor, tally: Tally
) -> Generator[Result]:
    def run(batch: Sequence[Prepared]) -> list[BatchResult]:
        with tally.timing("model_msecs"), engine.batches.one():
            return run_batch(batch, processor)

    batches = in_batches(prepared, processor)
    runs = engine.batches_ahead
    for _, results in _ahead(batches, lambda batch: engine.runners.submit(run, batch), runs):
        for part, result in results:
            if isinstance(result, ImageError):
                yield _failed(part[0].refs, result, tally, part[0].exif)
            else:
                done = [Done(ref, item.content, item.exif) for item in part for ref in item.refs]
                tally.counts["copies"] += len(done) - len(part)
                tally.done(len(done), held=len(part))
                yield Result(done, _for_all(part, result))


def _for_all(part: Sequence[Prepared], columns: dict[str, Any]) -> dict[str, Any]:
    """Returns a batch's rows, repeated for copies."""
    if not any(item.copies for item in part):
        return columns
    rows = np.repeat(np.arange(len(part)), [len(item.refs) for item in part])
    return {
        name: values[rows] if isinstance(values, np.ndarray) else values.take(pa.array(rows))
        for name, values in columns.items()
    }


def _failed(refs: Sequence[ImageRef], error: ImageError, tally: Tally, exif: Mapping[str, Any]) -> Result:
    tally.counts[f"failed_{error.code}"] += len(refs)
    tally.done(len(refs), held=1)
    return Result([Done(ref, "", exif) for ref in refs], error)
