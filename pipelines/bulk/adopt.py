"""Images that a store has under other ids: whether there are some, and AdoptIds, which takes over their rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import PCollection, TaggedOutput

from captionbeam.pipelines.sources.listing import list_images
from captionbeam.pipelines.sources.spec import SourceSpec
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.reading import Store, live_index

if TYPE_CHECKING:
    from captionbeam.pipelines.bulk.skip import BaseRow

RENAMING = ("list", "coco", "parquet")
"""Kinds of sources whose ids may change while the images stay where they are."""
_INDEXES, _IMAGES = 8, 20_000  # of which ids are compared on the launcher


class OtherIds(NamedTuple):
    """How many of the first images of ``source`` a store has from the source ``there`` under other ids only.

    ``new`` and ``old``: ids of one of them.
    """

    source: str
    there: str
    images: int
    new: str
    old: str


def find_other_ids(store: Store, specs: Sequence[SourceSpec]) -> list[OtherIds]:
    """Returns the sources of which the store has images under other ids: from the same source, or from one that is not
    among ``specs``.

    Compares the first 20,000 images of each source with the rows of 8 shards: all of a small store, and in a large one
    enough to see that a source names its images differently.
    """
    listed = {spec.name: spec for spec in reversed(specs) if spec.kind in RENAMING}
    known = _known_ids(store) if listed else {}
    names = {spec.name for spec in specs}
    return [found for spec in listed.values() for found in _other_ids(spec, known, names - {spec.name})]


def _known_ids(store: Store) -> dict[str, set[tuple[str, str]]]:
    """Returns source and id of the rows in some shards, by location."""
    shards = store.shards
    known: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for shard in shards[:: -(-len(shards) // _INDEXES) or 1]:
        url = files.join(store.url, "index", shard["index"])
        table = parquet.read_table(url, ["image_id", "uri", "source", "row", "failed"])
        for row in live_index(table, store.dead_in(shard["shard"])).to_pylist():
            if row["uri"]:
                known[row["uri"]].add((row["source"], row["image_id"]))
    return known


def _other_ids(
    spec: SourceSpec, known: Mapping[str, set[tuple[str, str]]], besides: Collection[str]
) -> Iterator[OtherIds]:
    """Yields what the store has of a source under other ids, by the source there, except from those ``besides``."""
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    refs = (ref for ref in islice(list_images(spec), _IMAGES) if isinstance(ref, ImageRef))
    for ref in refs:
        rows = known.get(ref.location, set())
        others = [row for row in rows if row[0] not in besides]
        if others and ref.image_id not in {image_id for _, image_id in rows}:
            there, old = min(others, key=lambda row: (row[0] != spec.name, row))
            found[there].append((ref.image_id, old))
    for there, ids in found.items():
        yield OtherIds(spec.name, there, len(ids), *ids[0])


def adopt(
    refs: Sequence[ImageRef], base: Sequence[tuple[str, BaseRow]], retired: Collection[str]
) -> list[tuple[str, BaseRow]]:
    """Returns the base's rows of one location, each with the id under which it counts.

    Live rows of an id that is not listed there count under one that is, if their source is that of the listed image or
    ``retired``. Of several listed ids, the first one has them of those that are new there; else of those that have rows
    of these sources only, such as rows that a run left unpublished.
    """
    listed = {ref.image_id for ref in refs}
    sources: dict[str, set[str]] = {}
    for image_id, row in base:
        sources.setdefault(image_id, set()).add(row.source)
    able = [ref for ref in refs if sources.get(ref.image_id, set()) <= {ref.source, *retired}]
    heir = min(able, key=lambda ref: (ref.image_id in sources, ref), default=None)
    if heir is None:
        return list(base)
    return [
        (heir.image_id, row._replace(renamed=True))
        if image_id not in listed and not row.dead and row.source in {heir.source, *retired}
        else (image_id, row)
        for image_id, row in base
    ]


class AdoptIds(beam.PTransform[PCollection[Any], tuple[PCollection[ImageRef], PCollection[Any]]]):
    """Takes ``(location, {"images": [...], "base": [...]})``; returns the images, and the base's rows by image id."""

    def __init__(self, retired: Collection[str]) -> None:
        super().__init__()
        self._retired = frozenset(retired)

    def expand(self, located: PCollection[Any]) -> Any:  # Beam takes no tuple as a hint
        found = (
            beam.ParDo(_Adopt(self._retired)).with_output_types(ImageRef).with_outputs("base", main="images")
        )
        adopted = located | "AdoptRows" >> found
        return adopted.images, adopted.base


class _Adopt(beam.DoFn):
    def __init__(self, retired: Collection[str]) -> None:
        self._retired = retired

    def process(
        self, located: tuple[str, Any]
    ) -> Iterator[ImageRef | TaggedOutput[Literal["base"], tuple[str, BaseRow]]]:
        refs, base = list(located[1]["images"]), list(located[1]["base"])
        yield from refs
        for row in adopt(refs, base, self._retired):
            yield TaggedOutput("base", row)
