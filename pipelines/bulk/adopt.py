"""Images that a store has under other ids: whether there are some, and AdoptIds, which takes over their rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import PCollection, TaggedOutput

from captionbeam.pipelines.sources.listing import list_images
from captionbeam.pipelines.sources.spec import SourceSpec
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.reading import Store

if TYPE_CHECKING:
    from captionbeam.pipelines.bulk.skip import BaseRow

WITH_COLUMNS = ("list", "coco", "parquet")
"""Kinds of sources whose ids may change while the images stay where they are."""
_INDEXES, _IMAGES = 8, 20_000  # of which ids are compared on the launcher


class OtherIds(NamedTuple):
    """How many of the first images of a source a store has under other ids; ``new`` and ``old``: ids of one of them."""

    source: str
    images: int
    new: str
    old: str


def find_other_ids(store: Store, specs: Sequence[SourceSpec]) -> list[OtherIds]:
    """Returns the sources of which the store has images under other ids.

    Compares the first 20,000 images of each source with the rows of 8 shards: all of a small store, and in a large one
    enough to see that a source names its images differently.
    """
    listed = {spec.name: spec for spec in reversed(specs) if spec.kind in WITH_COLUMNS}
    known = _known_ids(store, listed) if listed else {}
    return [found for spec in listed.values() if (found := _other_ids(spec, known))]


def _known_ids(store: Store, sources: Collection[str]) -> dict[str, set[str]]:
    """Returns the ids of the sources' rows in some shards, by location."""
    shards = store.shards
    known: defaultdict[str, set[str]] = defaultdict(set)
    for shard in shards[:: -(-len(shards) // _INDEXES) or 1]:
        url = files.join(store.url, "index", shard["index"])
        table = parquet.read_table(url, ["image_id", "uri", "source", "row", "failed"])
        for row in table.filter(pc.is_in(table.column("source"), pa.array(sorted(sources)))).to_pylist():
            dead = store.dead_in(shard["shard"])
            if row["uri"] and row["row"] not in (dead.failed if row["failed"] else dead.rows):
                known[row["uri"]].add(row["image_id"])
    return known


def _other_ids(spec: SourceSpec, known: dict[str, set[str]]) -> OtherIds | None:
    others = [
        (ref.image_id, min(ids))
        for ref in islice(list_images(spec), _IMAGES)
        if isinstance(ref, ImageRef) and ref.image_id not in (ids := known.get(ref.location, {ref.image_id}))
    ]
    return OtherIds(spec.name, len(others), *others[0]) if others else None


def adopt(
    refs: Sequence[ImageRef], base: Sequence[tuple[str, BaseRow]], retired: Collection[str]
) -> list[tuple[str, BaseRow]]:
    """Returns the base's rows of one location, each with the id under which it counts.

    Live rows of an id that is not listed there count under the id that is listed there and new, if their source is that
    of the listed image or ``retired``. The first of several new ids has them.
    """
    known, listed = {image_id for image_id, _ in base}, {ref.image_id for ref in refs}
    new = min((ref for ref in refs if ref.image_id not in known), default=None)
    if new is None:
        return list(base)
    return [
        (new.image_id, row._replace(renamed=True))
        if image_id not in listed and not row.dead and row.source in {new.source, *retired}
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
