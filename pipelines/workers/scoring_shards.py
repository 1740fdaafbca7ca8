"""Scores of captions in bulk jobs: any captioner of images, and a score of each caption against its image.

Where only the scorer is another than that of the store's rows, their captions are copied, and the captioner is not even
loaded unless an image has none.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import pyarrow as pa

from captionbeam.pipelines.bulk.run import SCORE, Run
from captionbeam.pipelines.workers.batches import (
    OfOneShape,
    PerShard,
    Processor,
    ReadsColumns,
    ShardProcessor,
)
from captionbeam.pipelines.workers.reuse import Replaced, replaced_rows
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.datafile import open_data, read_rows
from captionbeam.schemas.formats.kept import unpacked
from captionbeam.schemas.records import ImageRef

NO_VALUES: Mapping[str, str] = {}
Row = dict[str, Any]
"""One image's captions, by column."""


@dataclass
class Picture:
    """One image, prepared for the scorer, and for the captioner unless there may be captions to copy.

    ``known``: captions of the same content to copy, by the image's id. ``item``, ``used``: what ``asked`` is made of.
    """

    scored: Any
    asked: Any = None
    known: Mapping[str, Row] = field(default_factory=dict)
    item: bytes = b""
    used: Mapping[str, str] = field(default_factory=dict)


class ScoringProcessor:
    """A captioner of images whose captions get a field ``score``. Threads may share it.

    load:   loads the captioner; at once, unless ``lazily``.
    schema: the captioner's columns. Answers in JSON have no score.
    used:   the kept columns that prompts use.
    rerank: captions are ordered by score.
    """

    fingerprint = ""

    def __init__(
        self,
        scorer: Processor,
        load: Callable[[], Processor],
        schema: pa.Schema,
        used: Sequence[str] = (),
        rerank: bool = False,
        lazily: bool = False,
    ) -> None:
        self.scorer, self.rerank, self.columns = scorer, rerank, tuple(used)
        self.plain, self.schema = schema, arrow.with_scores(schema)
        self._scored = arrow.scored_names(self.schema)
        self.streams, self.devices = scorer.streams, getattr(scorer, "devices", {})
        self._load, self._lock = load, threading.Lock()
        self._captioner: Processor | None = None
        if not lazily:
            self.streams = self.captioner.streams
            scorer.batch_size = self.captioner.batch_size

    @property
    def captioner(self) -> Processor:
        """The captioner, loaded at its first use."""
        with self._lock:
            if self._captioner is None:
                self._captioner = self._load()
            return self._captioner

    @property
    def batch_size(self) -> int:
        """Images of a batch: fewer once they exceeded the device's memory."""
        return self.scorer.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.scorer.batch_size = size
        if self._captioner is not None:
            self._captioner.batch_size = min(size, self._captioner.batch_size)

    def shape_of(self, value: Picture) -> Hashable:
        """Returns what images of a batch have in common."""
        shaped = value.asked is not None and isinstance(self._captioner, OfOneShape)
        return self._captioner.shape_of(value.asked) if shaped else None  # type: ignore[union-attr]

    def bytes_of(self, value: Picture) -> int:
        """Returns the size of an image's inputs in memory, as far as the captioner tells."""
        shaped = value.asked is not None and isinstance(self._captioner, OfOneShape)
        return self._captioner.bytes_of(value.asked) if shaped else 0  # type: ignore[union-attr]

    def prepare(self, item: bytes, used: Mapping[str, str] = NO_VALUES) -> Picture:
        """Returns a file's bytes as the inputs of both models. Raises ImageError."""
        return Picture(self.scorer.prepare(item), _asked(self.captioner, item, used))

    def run(self, batch: Sequence[Picture], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns each image's captions with scores, by column. Raises ImageError, OutOfMemory, SystemicError."""
        rows = _rows(self.captioner.run([one.asked for one in batch], list(image_ids)))
        self.score(batch, rows)
        return self.arrays(rows)

    def score(self, batch: Sequence[Picture], rows: Sequence[Row]) -> Counter[str]:
        """Sets the scores of the captions ``rows`` of ``batch``; returns counts. Raises ImageError."""
        captions = [[one for name in self._scored for one in row[name]] for row in rows]
        places = [place for place, own in enumerate(captions) if own]
        if not places:
            return Counter()
        texts = [[caption["text"] for caption in captions[place]] for place in places]
        pictures = [batch[place].scored for place in places]
        found = self.scorer.run(list(zip(pictures, texts, strict=True)), [""] * len(places))
        for place, scores in zip(places, found["scores"], strict=True):
            if not all(map(isfinite, scores)):
                raise ImageError("model", "model", "the score of a caption is not finite")
            for caption, score in zip(captions[place], scores, strict=True):
                caption["score"] = score
        return Counter(captions_scored=sum(map(len, texts)), texts_truncated=found["truncated"])

    def arrays(self, rows: Sequence[Row]) -> dict[str, pa.Array]:
        """Returns captions by column, the best first if they are to be ordered by score."""
        if self.rerank:
            for row in rows:
                for name in self._scored:
                    if all(caption.get("score") is not None for caption in row[name]):
                        row[name].sort(key=lambda caption: -caption["score"])
        return {one.name: pa.array([row[one.name] for row in rows], one.type) for one in self.schema}

    @contextmanager
    def open_shard(self, run: Run, shard: str, refs: Sequence[ImageRef]) -> Iterator[ShardScoring]:
        """Yields the processor of one shard, which copies captions where only the scorer is another."""
        with ExitStack() as stack:
            yield ShardScoring(self, run, shard, refs, stack)


class ShardScoring:
    """A ``ScoringProcessor`` for one shard.

    A run that only scores (``Run.operation`` is ``score``) keeps the captions of images that cannot be read any more,
    or that have changed, without a score.
    """

    def __init__(
        self, processor: ScoringProcessor, run: Run, shard: str, refs: Sequence[ImageRef], stack: ExitStack
    ) -> None:
        self._processor, self._run, self._shard, self._refs = processor, run, shard, refs
        self._stack, self._lock = stack, threading.Lock()
        self.fingerprint, self.schema = processor.fingerprint, processor.schema
        self.streams, self.columns = processor.streams, processor.columns
        self._opened: Processor | None = None
        self._counts = Counter[str]()
        copied = list(copied_captions(run, refs, processor.plain)) if run.rescored else []
        self._known: defaultdict[tuple[str, frozenset[Any]], dict[str, Row]] = defaultdict(dict)
        for one, row in copied:
            self._known[one.content, frozenset(unpacked(one.used).items())][one.image_id] = row
        only_scores = run.operation == SCORE
        self._rows = {one.image_id: (one, row) for one, row in copied} if only_scores else {}
        self.joins = False  # copies of an image in a shard may have captions of their own

    @property
    def batch_size(self) -> int:
        """Images of a batch, of all shards."""
        return self._processor.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._processor.batch_size = size

    @property
    def counts(self) -> Counter[str]:
        """What this shard counted, and what its captioner did."""
        own = self._opened.counts if isinstance(self._opened, ShardProcessor) else Counter[str]()
        return self._counts + own

    @property
    def _captioner(self) -> Processor:
        """The shard's captioner, opened at its first use."""
        captioner = self._processor.captioner
        with self._lock:
            if self._opened is None:
                self._opened = captioner
                if isinstance(captioner, PerShard):
                    own = captioner.open_shard(self._run, self._shard, self._refs)
                    self._opened = self._stack.enter_context(own)
            return self._opened

    def shape_of(self, value: Picture) -> Hashable:
        """Returns what images of a batch have in common."""
        return self._processor.shape_of(value)

    def bytes_of(self, value: Picture) -> int:
        """Returns the size of an image's inputs in memory."""
        return self._processor.bytes_of(value)

    def prepare(self, item: bytes, used: Mapping[str, str] = NO_VALUES) -> Picture:
        """Returns a file's bytes as inputs of the scorer, and of the captioner if it is needed. Raises ImageError."""
        scored = self._processor.scorer.prepare(item)
        if not self._known and not self._rows:
            return Picture(scored, _asked(self._captioner, item, used))
        known = self._known.get((hashlib.sha256(item).hexdigest(), frozenset(used.items())), {})
        return Picture(scored, known=known, item=item, used=used)

    def run(self, batch: Sequence[Picture], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns each image's captions with scores, by column. Raises ImageError, OutOfMemory, SystemicError."""
        counts = Counter[str]()
        rows = [one.known.get(image_id) for one, image_id in zip(batch, image_ids, strict=True)]
        counts["captions_copied"] = sum(row is not None for row in rows)
        lacking = [place for place, row in enumerate(rows) if row is None]
        changed = [place for place in lacking if image_ids[place] in self._rows]
        for place in changed:
            rows[place] = without_scores(self._rows[image_ids[place]][1])
        counts["captions_unscored"] = len(changed)
        asked = [place for place in lacking if rows[place] is None]
        fresh = self._captions([batch[place] for place in asked], [image_ids[place] for place in asked])
        for place, row in zip(asked, fresh, strict=True):
            rows[place] = row
        whole = [row for row in rows if row is not None]
        read = [place for place in range(len(batch)) if place not in changed]
        scored = self._processor.score([batch[place] for place in read], [whole[place] for place in read])
        with self._lock:
            self._counts.update(counts + scored)
        return self._processor.arrays(whole)

    def _captions(self, batch: Sequence[Picture], image_ids: Sequence[str]) -> list[Row]:
        """Returns the captioner's captions of images, as many batches at a time as it can run."""
        if not batch:
            return []
        captioner, size = self._captioner, self._captioner.batch_size

        def run(start: int) -> list[Row]:
            part = batch[start : start + size]
            asked = [
                _asked(captioner, one.item, one.used) if one.asked is None else one.asked for one in part
            ]
            return _rows(captioner.run(asked, list(image_ids[start : start + size])))

        starts = range(0, len(batch), size)
        if len(starts) == 1:
            return run(0)
        with ThreadPoolExecutor(captioner.streams) as pool:
            return [row for rows in pool.map(run, starts) for row in rows]

    def earlier(self, image_id: str) -> tuple[str, Mapping[str, Any]] | None:
        """Returns content and exif of the file that an image's captions are of, if the run only scores captions."""
        if image_id not in self._rows:
            return None
        replaced, _ = self._rows[image_id]
        return replaced.content, replaced.exif

    def kept(self, image_id: str) -> dict[str, pa.Array] | None:
        """Returns earlier captions, without scores, of an image that cannot be read any more.

        None unless the run only scores captions.
        """
        if image_id not in self._rows:
            return None
        with self._lock:
            self._counts["captions_unscored"] += 1
        return self._processor.arrays([without_scores(self._rows[image_id][1])])

    def committed(self, failed: Collection[str]) -> None:
        """Tells the captioner's processor of the shard that its commit exists."""
        if isinstance(self._opened, ShardProcessor):
            self._opened.committed(failed)


def without_scores(row: Row) -> Row:
    """Returns captions with empty scores."""
    return {name: [{**caption, "score": None} for caption in captions] for name, captions in row.items()}


def copied_captions(run: Run, refs: Sequence[ImageRef], columns: pa.Schema) -> Iterator[tuple[Replaced, Row]]:
    """Yields each row of ``run.previous`` that ``refs`` replace, with its captions.

    A file that a vacuum removed meanwhile gives none.
    """
    places: defaultdict[str, dict[int, Replaced]] = defaultdict(dict)
    for replaced in replaced_rows(run, refs, run.previous):
        url, number = replaced.place
        places[url][number] = replaced
    for url, by_row in sorted(places.items()):
        try:
            with closing(open_data(url)) as data:
                for numbers, batch in read_rows(data, sorted(by_row), columns.names):
                    for number, row in zip(numbers, batch.to_pylist(), strict=True):
                        yield by_row[number], row
        except FileNotFoundError:
            continue


def _asked(captioner: Processor, item: bytes, used: Mapping[str, str]) -> Any:
    return captioner.prepare(item, used) if isinstance(captioner, ReadsColumns) else captioner.prepare(item)


def _rows(columns: Mapping[str, pa.Array]) -> list[Row]:
    lists = {name: values.to_pylist() for name, values in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
