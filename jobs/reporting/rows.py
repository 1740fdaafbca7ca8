"""Reads the rows that a report shows: brief ones for the selection, then the selected ones completely."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas import Store


@dataclass(frozen=True)
class Brief:
    """A row's best caption: its text, and the mean log-probability of its tokens, including END."""

    text: str
    certainty: float


@dataclass(frozen=True)
class Row:
    """A row to show: its image's location, and its captions as stored, best first."""

    image_id: str
    uri: str
    captions: Sequence[Mapping[str, Any]]


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


def read_briefs(store: Store) -> dict[str, Brief]:
    """Returns each live row's best caption, without rows that have none. Does not read attention."""
    found: dict[str, Brief] = {}
    for batch in store.scan(["image_id", "captions"]):
        table = pa.Table.from_batches([batch])
        table = table.filter(pc.greater(pc.list_value_length(table.column("captions")), 0))
        for chunk in table.to_batches():
            first = pc.list_element(chunk.column("captions"), 0)
            lengths = pc.list_value_length(first.field("tokens"))
            columns = (chunk.column("image_id"), first.field("text"), first.field("logprob"), lengths)
            for image, text, logprob, length in zip(*(c.to_pylist() for c in columns), strict=True):
                found[image] = Brief(text, logprob / (length + 1))
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


def read_rows(store: Store, ids: Iterable[str]) -> dict[str, Row]:
    """Returns the complete rows of ``ids``."""
    batches = store.scan(["image_id", "uri", "captions"], ids)
    return {row["image_id"]: Row(**row) for batch in batches for row in batch.to_pylist()}
