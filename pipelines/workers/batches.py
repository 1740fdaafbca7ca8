"""Runs a batch through the model, and isolates the images on which the model or the device fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pyarrow as pa

from captionbeam.schemas.errors import ImageError, OutOfMemory, SystemicError
from captionbeam.schemas.formats.kept import unpacked, used_values
from captionbeam.schemas.records import ImageRef

if TYPE_CHECKING:
    from captionbeam.pipelines.bulk.run import Run

WAITING_BATCHES, WAITING_BYTES = 8, 1 << 30  # of a shard's images that wait for others of their shape
MODEL_ERRORS = (RuntimeError, ValueError, ArithmeticError, IndexError)


class Processor(Protocol):
    """Turns images into columns: an encoder or a captioner. Several threads may share one.

    ``schema`` describes the output columns; ``prepare`` may raise ImageError. At most ``streams`` calls of ``run``
    are made concurrently. ``run`` takes at most ``batch_size`` prepared items with their ids, and returns one value
    per column and item. It may raise ImageError (for a batch of one), OutOfMemory, SystemicError; for other errors,
    the batch is halved to find the image that causes it.
    """

    fingerprint: str
    schema: pa.Schema
    batch_size: int
    streams: int

    def prepare(self, item: Any) -> Any: ...

    def run(self, batch: list[Any], image_ids: list[str]) -> dict[str, Any]: ...


@runtime_checkable
class OnDevices(Protocol):
    """A processor on several devices. ``devices``: batches that each has run, by its name."""

    devices: Mapping[str, int]


@runtime_checkable
class ReadsColumns(Protocol):
    """A processor whose results depend on kept columns of an image, too.

    ``columns``: their names. ``prepare`` gets the image's values (``formats.kept.used_values``), by name.
    """

    columns: Collection[str]

    def prepare(self, item: Any, used: Mapping[str, str]) -> Any: ...


@runtime_checkable
class OfOneShape(Protocol):
    """A processor whose batches are of images of one shape.

    ``shape_of`` returns that of a result of ``prepare``, and ``bytes_of`` its size in memory. Images of several shapes
    may be given to ``run``, but each shape costs as much as a whole batch.
    """

    def shape_of(self, value: Any) -> Hashable: ...

    def bytes_of(self, value: Any) -> int: ...


@runtime_checkable
class PerShard(Protocol):
    """A processor that keeps something for each shard in progress: it gives a processor of its own for each."""

    def open_shard(
        self, run: Run, shard: str, refs: Sequence[ImageRef]
    ) -> AbstractContextManager[ShardProcessor]: ...


@runtime_checkable
class ShardProcessor(Processor, Protocol):
    """The processor of one shard.

    ``counts``: what it counted, added to the commit's. ``joins``: whether images with the same bytes, and the same
    values of columns, have the same row. ``committed`` is called once the shard has its commit; ``failed`` are the ids
    of the images that became failures.
    """

    joins: bool
    counts: Counter[str]

    def committed(self, failed: Collection[str]) -> None: ...


@runtime_checkable
class KeepsRows(Protocol):
    """A processor with earlier rows that stay although their images have gone or changed.

    ``earlier`` returns the SHA-256 and the exif of the image file that an image's earlier row is of, ``kept`` the row's
    columns for an image that cannot be processed any more; None if it has no earlier row.
    """

    def earlier(self, image_id: str) -> tuple[str, Mapping[str, Any]] | None: ...

    def kept(self, image_id: str) -> dict[str, pa.Array] | None: ...


def used_by(processor: Processor, ref: ImageRef) -> str:
    """Returns the values of an image's kept columns on which results of ``processor`` depend, as text; '' if none."""
    if ref.columns and isinstance(processor, ReadsColumns):
        return used_values(ref.columns, processor.columns)
    return ""


def prepare_image(processor: Processor, item: Any, ref: ImageRef) -> Any:
    """Returns the result of ``processor.prepare`` for one image. Raises ImageError."""
    if ref.columns and isinstance(processor, ReadsColumns):
        return processor.prepare(item, unpacked(used_values(ref.columns, processor.columns)))
    return processor.prepare(item)


class WorkerJob(Protocol):
    """What workers are to do: small, immutable and picklable.

    ``threads``: this process's share of the cores. ``processes``: of this machine, 0: one per core.
    """

    def load(self, threads: int, processes: int = 1) -> Processor: ...


class Prepared:
    """One image in progress: its reference, the hash of its bytes, and the result of ``prepare``.

    ``copies`` are other images with the same bytes, which get the same row. ``exif``: what the file says of itself.
    """

    __slots__ = ("content", "copies", "exif", "ref", "value")

    def __init__(
        self,
        ref: ImageRef,
        content: str,
        value: Any,
        copies: Sequence[ImageRef] = (),
        exif: Mapping[str, Any] | None = None,
    ) -> None:
        self.ref, self.content, self.value, self.copies, self.exif = ref, content, value, copies, exif or {}

    @property
    def refs(self) -> list[ImageRef]:
        """All images with these bytes."""
        return [self.ref, *self.copies]


def waiting_images(processor: Processor) -> int:
    """Returns how many images wait at most for others of their shape."""
    return WAITING_BATCHES * processor.batch_size if isinstance(processor, OfOneShape) else 0


def in_batches(prepared: Iterable[Prepared], processor: Processor) -> Iterator[list[Prepared]]:
    """Yields batches in order, or batches of one shape where the processor needs that."""
    if isinstance(processor, OfOneShape):
        return _of_one_shape(prepared, processor)
    images = iter(prepared)
    return iter(lambda: list(islice(images, processor.batch_size)), [])


def _of_one_shape(prepared: Iterable[Prepared], processor: Any) -> Iterator[list[Prepared]]:
    """Yields batches when they are full. Where too much waits, the largest one is yielded as it is."""
    groups: dict[Hashable, list[Prepared]] = {}
    waiting, size = 0, 0
    for item in prepared:
        shape = processor.shape_of(item.value)
        groups.setdefault(shape, []).append(item)
        waiting, size = waiting + 1, size + processor.bytes_of(item.value)
        full = len(groups[shape]) >= processor.batch_size
        if full or waiting > waiting_images(processor) or size > WAITING_BYTES:
            chosen = shape if full else max(groups, key=lambda shape: len(groups[shape]))
            batch = groups.pop(chosen)
            waiting, size = waiting - len(batch), size - sum(processor.bytes_of(one.value) for one in batch)
            yield batch
    yield from groups.values()


BatchResult = tuple[Sequence[Prepared], dict[str, Any] | ImageError]


def run_batch(batch: Sequence[Prepared], processor: Processor) -> list[BatchResult]:
    """Returns columns for the images of a batch, or an ImageError for an image on which the model fails.

    A batch that exceeds device memory is halved, and so are all later batches. A batch that fails otherwise is
    bisected down to the image. Raises SystemicError if the device is broken or all images of a batch fail.
    """
    results = _bisect(batch, processor)
    failed = [result for _, result in results if isinstance(result, ImageError)]
    if len(batch) > 1 and len(failed) == len(batch):
        raise SystemicError(f"the model failed on all {len(batch)} images of a batch: {failed[0].message}")
    return results


def _bisect(batch: Sequence[Prepared], processor: Processor) -> list[BatchResult]:
    size = processor.batch_size
    if len(batch) > size:
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        return [result for part in parts for result in _bisect(part, processor)]
    try:
        return [(batch, processor.run([item.value for item in batch], [item.ref.image_id for item in batch]))]
    except OutOfMemory as err:
        if size == 1:
            raise SystemicError(f"one image does not fit the device: {err}") from err
        processor.batch_size, middle = size // 2, len(batch)
    except (ImageError, *MODEL_ERRORS) as err:
        if len(batch) == 1:
            return [
                (batch, err if isinstance(err, ImageError) else ImageError("model", "model", _sentence(err)))
            ]
        middle = len(batch) // 2
    # only here, since an error holds its frames, and these hold the device's memory
    return [
        result for part in (batch[:middle], batch[middle:]) if part for result in _bisect(part, processor)
    ]


def _sentence(err: BaseException) -> str:
    return f"{type(err).__name__}: {str(err).strip().splitlines()[0] if str(err).strip() else 'no message'}"
