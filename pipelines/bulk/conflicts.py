"""Decides which rows are deleted when new shards are published, so that each image keeps only its latest result."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas.records import address, addresses_in, parse_address, superseded
from captionbeam.schemas.store.rows import DeleteRow, IndexRow, delete_row

INDEX_COLUMNS = ["image_id", "version", "row", "failed", "code", "replaces"]


def resolve_conflicts(
    indexes: Mapping[str, pa.Table], published: Mapping[str, Mapping[str, str | None]], there: Collection[str]
) -> dict[str, DeleteRow]:
    """Returns the deletes, by address, after which each image of the new shards has only its latest result.

    A new row deletes the rows that it replaces. If its image has another live row that it does not replace, the new
    row is a duplicate from another writer and is deleted itself. A transient failure keeps the row of the image's
    earlier version until the new version's result is known; a permanent failure deletes it. If a replaced row's shard
    is not in ``there``, compaction or purging has moved the row. The new row then replaces all of the image's
    failures and rows of other versions.

    ``published`` has the addresses of the newest snapshot's rows by image, with the version of each. The new shards
    are in order.
    """
    live = {image_id: dict(places) for image_id, places in published.items()}
    deletes: dict[str, DeleteRow] = {}
    for shard in in_dependency_order(indexes):
        for row in cast(list[IndexRow], indexes[shard].select(INDEX_COLUMNS).to_pylist()):
            place = address(shard, row["row"], row["failed"])
            places = live.setdefault(row["image_id"], {})
            replaced = addresses_in(row["replaces"])
            if any(parse_address(old)[0] not in there for old in replaced):
                replaced |= {old for old, version in places.items() if _yields(old, version, row["version"])}
            if places.keys() - replaced:
                deletes[place] = delete_row(place, row["image_id"], "duplicate")
                continue
            gone = superseded(row["code"], replaced)
            deletes.update((old, delete_row(old, row["image_id"], "replaced")) for old in gone)
            live[row["image_id"]] = {
                **{old: version for old, version in places.items() if old not in gone},
                place: row["version"],
            }
    return deletes


def in_dependency_order(indexes: Mapping[str, pa.Table]) -> list[str]:
    """Returns the shards in their order, but each after the shards whose rows it replaces.

    Runs that start in the same second have no order. There are no cycles, as a shard's id is a hash of what it
    replaces.
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
    return {parse_address(place)[0] for text in named for place in addresses_in(text or "")}


def _yields(place: str, version: str | None, newer: str | None) -> bool:
    """Returns whether the row at ``place`` is a failure, or of another version than ``newer``."""
    return version != newer or parse_address(place)[2]
