"""The rows that a report shows: read lightly to choose, and whole where chosen."""

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
    """The best caption of a row: its text, and the mean log-probability of its tokens, END counted."""

    text: str
    certainty: float


@dataclass(frozen=True)
class Row:
    """A row as the page shows it: where its image is, and its captions, best first, as the store has them."""

    image_id: str
    uri: str
    captions: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Choice:
    """Ids of the images to show: a sample, and the two ends of a ranking."""

    sample: list[str]
    best: list[str] = field(default_factory=list)
    worst: list[str] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """All of them, once each."""
        return [*self.best, *self.worst, *self.sample]


def read_briefs(store: Store) -> dict[str, Brief]:
    """Each live row's best caption; rows without any are left out. Attention is skipped over."""
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
    """``sample`` images by a hash of their ids, and the ``ends`` best and worst of ``ranking``.

    No image is chosen twice; of a short ranking each end gets half.
    """
    ordered = sorted(ranking, key=lambda image: ([-value for value in ranking[image]], image))
    worst = ordered[::-1][: min(ends, len(ordered) // 2)]
    best = ordered[: min(ends, len(ordered) - len(worst))]
    rest = set(briefs) - {*best, *worst}
    return Choice(sorted(heapq.nsmallest(sample, rest, key=_draw)), best, worst)


def read_rows(store: Store, ids: Iterable[str]) -> dict[str, Row]:
    """The whole rows of ``ids``."""
    found: dict[str, Row] = {}
    for batch in store.scan(["image_id", "uri", "captions"], ids):
        for row in batch.to_pylist():
            found[row["image_id"]] = Row(**row)
    return found


def _draw(image_id: str) -> tuple[str, str]:
    return hashlib.sha256(image_id.encode()).hexdigest(), image_id
