"""Reads the rows that a report shows: brief ones for the selection, then the selected ones completely."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.pipelines.maintenance.tables import with_json_values
from captionbeam.schemas import Store
from captionbeam.schemas.formats import arrow

MOST_KEPT, MOST_LETTERS = 12, 80


@dataclass(frozen=True)
class Brief:
    """A row's best caption: its text, and the mean log-probability of its tokens, including END, if it has one."""

    text: str
    certainty: float | None


@dataclass(frozen=True)
class Row:
    """A row to show: its image's location, its captions as stored, best first, and columns kept from the input."""

    image_id: str
    uri: str
    captions: Sequence[Mapping[str, Any]]
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """Ids of the images to show: a sample, and both ends of a ranking."""

    sample: list[str]
    best: list[str] = field(default_factory=list)
    worst: list[str] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """All ids, without duplicates."""
        return [*self.best, *self.worst, *self.sample]


def read_briefs(store: Store, column: str) -> dict[str, Brief]:
    """Returns each live row's best caption in ``column``, without rows that have none. Does not read attention."""
    found: dict[str, Brief] = {}
    for batch in store.scan(["image_id", column]):
        table = pa.Table.from_batches([batch])
        table = table.filter(pc.greater(pc.list_value_length(table.column(column)), 0))
        for chunk in table.to_batches():
            first = pc.list_element(chunk.column(column), 0)
            texts, certainty = first.field("text").to_pylist(), pa.nulls(chunk.num_rows)
            if arrow.has_logprobs(table.schema.field(column)):
                lengths = pc.add(pc.list_value_length(first.field("tokens")), 1)
                certainty = pc.divide(first.field("logprob").cast(pa.float64()), lengths)
            briefs = map(Brief, texts, certainty.to_pylist())
            found.update(zip(chunk.column("image_id").to_pylist(), briefs, strict=True))
    return found


def choose(
    briefs: Iterable[str], ranking: Mapping[str, Sequence[float]], sample: int, ends: int = 10
) -> Choice:
    """Returns ``sample`` images by a hash of their ids, and the ``ends`` best and worst of ``ranking``.

    No image is chosen twice; a short ranking is split between both ends.
    """
    ordered = sorted(ranking, key=lambda image: ([-value for value in ranking[image]], image))
    worst = ordered[::-1][: min(ends, len(ordered) // 2)]
    best = ordered[: min(ends, len(ordered) - len(worst))]
    rest = set(briefs) - {*best, *worst}
    drawn = heapq.nsmallest(
        sample, rest, key=lambda image: (hashlib.sha256(image.encode()).hexdigest(), image)
    )
    return Choice(sorted(drawn), best, worst)


def read_rows(store: Store, column: str, ids: Iterable[str]) -> dict[str, Row]:
    """Returns the rows of ``ids``, with the captions in ``column``."""
    kept = store.kept.names
    return {
        row["image_id"]: Row(row["image_id"], row["uri"], row[column], _shown(row, kept))
        for batch in store.scan(["image_id", "uri", column, *kept], ids)
        for row in with_json_values(batch, kept).to_pylist()
    }


def _shown(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Returns a row's first values of the columns ``names`` as short texts."""
    there = [(name, row[name]) for name in names if row[name] not in (None, "")]
    texts = {
        name: one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for name, one in there
    }
    short = {
        name: text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."
        for name, text in texts.items()
    }
    return dict(itertools.islice(short.items(), MOST_KEPT))
