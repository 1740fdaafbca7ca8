"""Which rows end where new shards are published: what became of an image last stays, once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas.records import address, named_ids, named_places, parse_address, superseded

SETTLED = ["image_id", "version", "row", "failed", "code", "replaces"]


def settle(
    indexes: Mapping[str, pa.Table], published: Mapping[str, Mapping[str, str | None]], there: Collection[str]
) -> dict[str, dict[str, Any]]:
    """The deletes, by address, that leave each image of the new shards what became of it last, once.

    A new row deletes those that it replaces; one whose image has another row already that it does not replace is
    a duplicate (of another writer's), and goes itself. A transient failure leaves the row of the image's earlier
    version in place until it is known what became of the new one; a permanent failure does not: that image is
    gone. Where a row that it replaces is in a shard that is not ``there`` any more, compacting or purging has moved
    it: then it replaces the image's rows of other versions, and its failures, wherever they are.

    ``published`` has the addresses of the newest snapshot's rows by image, and the version of each; the new shards
    come in order.
    """
    live = {image_id: dict(places) for image_id, places in published.items()}
    deletes: dict[str, dict[str, Any]] = {}
    for shard in chained(indexes):
        for row in indexes[shard].select(SETTLED).to_pylist():
            place = address(shard, row["row"], row["failed"])
            places = live.setdefault(row["image_id"], {})
            named = named_ids(row["replaces"], row["image_id"])
            replaced = set(named)
            if any(parse_address(old)[0] not in there for old in replaced):
                replaced |= {old for old, version in places.items() if _yields(old, version, row["version"])}
            if places.keys() - replaced:
                deletes[place] = deletion(place, row["image_id"], "duplicate")
                continue
            gone = superseded(row["code"], replaced)
            deletes.update((old, deletion(old, named.get(old, row["image_id"]), "replaced")) for old in gone)
            live[row["image_id"]] = {
                **{old: version for old, version in places.items() if old not in gone},
                place: row["version"],
            }
    return deletes


def chained(indexes: Mapping[str, pa.Table]) -> list[str]:
    """The shards in their order, but each after those whose rows it replaces.

    Runs that began in one second are in no order. There is no circle: a shard's id is a hash of what it replaces.
    """
    earlier = {shard: _replaced_shards(table) & indexes.keys() for shard, table in indexes.items()}
    ordered: dict[str, None] = {}
    for first in indexes:
        waiting = [first]
        while waiting:
            missing = sorted(earlier[waiting[-1]] - ordered.keys())
            if missing:
                waiting += missing
            else:
                ordered[waiting.pop()] = None
    return list(ordered)


def _replaced_shards(table: pa.Table) -> set[str]:
    named = pc.unique(table.column("replaces")).to_pylist()
    return {parse_address(place)[0] for text in named for place in named_places(text or "")}


def _yields(place: str, version: str | None, newer: str | None) -> bool:
    """Whether the row at ``place`` is of another version than ``newer``, or a failure."""
    return version != newer or parse_address(place)[2]


def deletion(place: str, image_id: str, reason: str) -> dict[str, Any]:
    """A row of a delete file: the row at ``place`` is no longer live."""
    shard, row, failed = parse_address(place)
    return {"shard": shard, "row": row, "failed": failed, "image_id": image_id, "reason": reason}
