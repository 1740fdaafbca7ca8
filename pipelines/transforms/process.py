"""Runs a worker job on the elements of a PCollection, by the steps with which the commands process a shard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from captionbeam.pipelines.transforms.elements import Caption, ImageCaptions, ImageFeatures
from captionbeam.pipelines.workers.batches import ReadsColumns, WorkerJob
from captionbeam.pipelines.workers.boundary import worker_boundary
from captionbeam.pipelines.workers.engine import WINDOW_BYTES, Engine, load_engine
from captionbeam.pipelines.workers.shards import Fetch, Item, Result, Tally, failure_of, process_images
from captionbeam.schemas.errors import FingerprintError, ImageError, RequestError
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.kept import CELLS, EMPTY, lacking, packed
from captionbeam.schemas.records import Failure, ImageRef
from captionbeam.schemas.storage import options as storage_options

IMAGES = 1024  # processed together; fewer if they hold more than WINDOW_BYTES
FAILURES = "failures"
INLINE = "inline"  # kind of a reference to the element at position ``offset``, which holds the image itself


class ProcessImages(beam.DoFn):
    """Yields ImageFeatures, ImageCaptions or a tagged ``Failure`` for each element, with its timestamp and window.

    Elements are ImageRef, ``(image_id, bytes)``, ``(image_id, bytes, columns)`` or ImageFeatures, which must have the
    fingerprint ``features``.
    ``fingerprint``: of the results. A process has one engine for all its bundles.
    """

    def __init__(
        self,
        job: WorkerJob,
        fingerprint: str,
        fetch: Fetch,
        features: str | None = None,
        threads: int | None = None,
        processes: int = 1,
    ) -> None:
        self._fingerprint, self._fetch, self._features = fingerprint, fetch, features
        self._load = partial(load_engine, job, threads, processes)
        self._shared, self._storage = Shared(), storage_options.current()
        self._engine: Engine | None = None
        self._waiting = _Waiting()

    def setup(self) -> None:
        """Gets the process's engine, and loads it the first time."""
        with worker_boundary(self._storage):
            self._engine = self._shared.acquire(self._load)

    def start_bundle(self) -> None:
        """Drops what a failed bundle left."""
        self._waiting = _Waiting()

    def process(
        self, element: Any, timestamp: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
    ) -> Iterator[Any]:
        """Keeps the element, and processes all kept ones if they are many."""
        if isinstance(element, ImageFeatures) and element.fingerprint != self._features:
            raise FingerprintError(
                f"the features of {element.image_id!r} have fingerprint {element.fingerprint}; "
                f"expected {self._features}, on which the bundle was trained"
            )
        self._waiting.add(element, timestamp, window)
        if len(self._waiting.refs) == IMAGES or self._waiting.bytes > WINDOW_BYTES:
            yield from self._run()

    def finish_bundle(self) -> Iterator[Any]:
        """Processes the rest."""
        if self._waiting.refs:
            yield from self._run()

    def _run(self) -> Iterator[Any]:
        waiting, self._waiting = self._waiting, _Waiting()
        engine = self._engine
        if engine is None:
            raise RuntimeError(
                "process() before setup(); expected a runner that keeps to Beam's DoFn life cycle"
            )
        fetch = partial(waiting.fetch, others=self._fetch)
        schema = engine.processor.schema
        is_features = not arrow.is_captions(schema.field(0))
        with (
            worker_boundary(self._storage),
            engine.turn(),
            closing(Tally(engine.images)) as tally,
            closing(
                process_images(waiting.refs, engine, engine.processor, fetch, tally, is_features)
            ) as results,
        ):
            for result in results:
                for ref, row in zip(
                    (one.ref for one in result.done), self._rows(result, schema), strict=True
                ):
                    output = waiting.windowed(ref, row)
                    yield beam.pvalue.TaggedOutput(FAILURES, output) if isinstance(row, Failure) else output
        if isinstance(engine.processor, ReadsColumns):
            used = engine.processor.columns
            tally.counts[EMPTY] = sum(bool(lacking(ref.columns, used)) for ref in waiting.refs)
        for name, count in tally.counts.items():
            Metrics.counter("captionbeam", name).inc(count)

    def _rows(self, result: Result, schema: pa.Schema) -> Iterator[ImageFeatures | ImageCaptions | Failure]:
        refs = [one.ref for one in result.done]
        if isinstance(result.columns, ImageError):
            yield from (failure_of(_as_json(ref), result.columns) for ref in refs)
            return
        columns = [result.columns[name] for name in schema.names]
        for ref, *values in zip(map(_as_json, refs), *columns, strict=True):
            about = (ref.image_id, ref.location, ref.version, ref.source, self._fingerprint)
            if arrow.is_captions(schema.field(0)):
                yield ImageCaptions(
                    *about, _captions(schema.names, [value.as_py() for value in values]), ref.columns
                )
            else:
                yield ImageFeatures(*about, list(values[0].shape), values[0].tobytes(), ref.columns)


def _as_json(ref: ImageRef) -> ImageRef:
    """Returns ``ref`` with its kept columns as JSON; cells of CSV are texts."""
    return ref._replace(columns=ref.columns.removeprefix(CELLS))


def _captions(names: Sequence[str], values: Sequence[Sequence[Mapping[str, Any]]]) -> list[Caption]:
    """Returns the captions of one image, in the columns ``names``, as one list."""
    return [
        Caption(one["text"], one.get("logprob"), name if len(names) > 1 else None)
        for name, several in zip(names, values, strict=True)
        for one in several
    ]


def _packed(image_id: str, columns: Mapping[str, Any]) -> str:
    try:
        return packed(columns)
    except TypeError as err:
        raise RequestError(f"the columns of {image_id!r} have a value that JSON has not: {err}") from err


class _Waiting:
    """Elements to be processed together: a reference to each, and the images that they hold themselves."""

    def __init__(self) -> None:
        self.refs: list[ImageRef] = []
        self.bytes = 0
        self._items: dict[int, Item] = {}
        self._places: defaultdict[ImageRef, list[tuple[Any, Any]]] = defaultdict(list)

    def add(self, element: Any, timestamp: Any, window: Any) -> None:
        """Adds an element. Raises RequestError for one of another type."""
        ref = element if isinstance(element, ImageRef) else self._inline(element)
        self.refs.append(ref)
        self._places[ref].append((timestamp, window))

    def _inline(self, element: Any) -> ImageRef:
        at = len(self.refs)
        match element:
            case ImageFeatures():
                ref = ImageRef(element.image_id, element.uri, element.source, element.version, INLINE, at)
                ref = ref._replace(columns=element.columns)
                self._items[at], size = element.array, len(element.data)
            case (str(image_id), bytes(data)):
                ref = ImageRef(image_id, "", "", None, INLINE, at)
                self._items[at], size = data, len(data)
            case (str(image_id), bytes(data), Mapping() as columns):
                ref = ImageRef(image_id, "", "", None, INLINE, at, columns=_packed(image_id, columns))
                self._items[at], size = data, len(data)
            case _:
                raise RequestError(
                    f"an element is {str(element)[:100]!r}; expected ImageRef (of FindImages), (image_id, bytes), "
                    "(image_id, bytes, columns), or ImageFeatures for CaptionFeatures"
                )
        self.bytes += size
        return ref._replace(size=size)

    def fetch(self, window: Sequence[ImageRef], others: Fetch) -> list[Item | ImageError]:
        """Returns the items of ``window`` in order; those that no element holds from ``others``."""
        apart = [ref for ref in window if ref.kind != INLINE]
        found = iter(others(apart) if apart else ())
        return [self._items.pop(ref.offset) if ref.kind == INLINE else next(found) for ref in window]

    def windowed(self, ref: ImageRef, row: Any) -> WindowedValue:
        """Returns ``row`` with timestamp and window of the element of ``ref``."""
        timestamp, window = self._places[ref].pop()
        return WindowedValue(row, timestamp, (window,))
