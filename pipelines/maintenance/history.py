"""A store's history: contents of snapshots, differences between two of them, and rollback to an earlier one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from captionbeam.capmodel.specs import complete_spec
from captionbeam.pipelines.bulk.gates import median_scores
from captionbeam.schemas.formats.int8 import RoundingError
from captionbeam.schemas.formats.kept import HASH
from captionbeam.schemas.store import layout, tags
from captionbeam.schemas.store.layout import Snapshot
from captionbeam.schemas.store.reading import Store


class Difference(NamedTuple):
    """Sorted image ids by how they differ between two snapshots.

    ``changed`` images have another version, ``redone`` ones the same version in another row, ``columns`` other kept
    columns.
    """

    added: list[str]
    removed: list[str]
    changed: list[str]
    redone: list[str]
    columns: list[str]
    failed: list[str]
    recovered: list[str]


def snapshot_row(snapshot: Snapshot, names: dict[str, int]) -> dict[str, Any]:
    """Returns the output of ``store ls`` for one snapshot, including tags."""
    return {
        "snapshot": snapshot.id,
        "time": snapshot.created,
        "operation": snapshot.operation,
        "note": snapshot.note,
        "run": snapshot.run,
        "rows": snapshot.totals["rows"],
        "failed": snapshot.totals["failed"],
        "bytes": snapshot.totals["bytes"],
        "shards": snapshot.totals["shards"],
        "fingerprint": snapshot.fingerprint,
        "tags": sorted(name for name, number in names.items() if number == snapshot.id),
    }


def describe(store: Store) -> dict[str, Any]:
    """Returns the output of ``store show``: totals, failures by code, specification, ancestors, images per source.

    ``scores`` are the medians by column.
    """
    snapshots = {snapshot.id: snapshot for snapshot in layout.load_snapshots(store.url)}
    sources: Counter[str] = Counter()
    for _, table in store.index():
        live = table.select(["source", "failed"]).to_pylist()
        sources.update(row["source"] for row in live if not row["failed"])
    ancestors, parent = [], snapshots.get(store.snapshot.parent or 0)  # as far as they exist
    while parent is not None:
        ancestors.append(parent)
        parent = snapshots.get(parent.parent or 0)
    return {
        "store": store.url,
        **snapshot_row(store.snapshot, tags.read_tags(store.url)),
        "kind": store.kind,
        "format": store.snapshot.format,
        "column": store.column,
        "columns": list(store.columns),
        "shape": list(store.shape),
        "kept": {field.name: str(field.type) for field in store.kept},
        "superseded": store.totals["deleted"],
        "scores": median_scores(store),
        "failures": dict(Counter(store.failures().column("code").to_pylist()).most_common()),
        "sources": dict(sorted(sources.items())),
        "parents": [snapshot.id for snapshot in ancestors],
        "runs": list(dict.fromkeys(snapshot.run for snapshot in (store.snapshot, *ancestors))),
        "spec": complete_spec(store.spec),
        "rounding": rounding_of(store),
    }


def rounding_of(store: Store) -> dict[str, float]:
    """Returns the difference of int8 features from their float16 originals, over the shards whose commits have it.

    Shards from compaction have none, nor have copied rows. Empty if no shard has it. ``stored_rows`` counts the
    rows of all shards, also superseded ones.
    """
    if store.spec.get("dtype") != "int8":
        return {}
    error, shards = RoundingError(), [row["shard"] for row in store.shards]
    commits = [commit for commit in layout.load_commits(store.url, shards) if commit.rounding]
    for commit in commits:
        error.merge(commit.rounding)
    stored = sum(row["rows"] for row in store.shards)
    return {**error.to_dict(), "shards": len(commits), "stored_rows": stored} if commits else {}


def diff(before: Store, after: Store) -> Difference:
    """Returns how the images of two snapshots of one store differ. Skips shards that are equal in both."""
    (old, old_failed), (new, new_failed) = _images(before, after), _images(after, before)
    both = sorted(old.keys() & new.keys())
    return Difference(
        added=sorted(new.keys() - old.keys()),
        removed=sorted(old.keys() - new.keys()),
        changed=[name for name in both if old[name].version != new[name].version],
        redone=[
            name
            for name in both
            if old[name].place != new[name].place and old[name].version == new[name].version
        ],
        columns=[name for name in both if old[name].columns != new[name].columns],
        failed=sorted(new_failed - old_failed),
        recovered=sorted(old_failed - new_failed),
    )


class _Row(NamedTuple):
    version: str | None
    place: tuple[str, int]
    columns: str


def _images(store: Store, other: Store) -> tuple[dict[str, _Row], set[str]]:
    """Returns live rows by image, and failed images, of the shards that differ from those of ``other``."""
    theirs = {row["shard"]: row["columns"] for row in other.shards}
    shards = [
        row["shard"]
        for row in store.shards
        if row["shard"] not in theirs
        or row["columns"] != theirs[row["shard"]]
        or store.dead_in(row["shard"]) != other.dead_in(row["shard"])
    ]
    rows: dict[str, _Row] = {}
    failed: set[str] = set()
    with ThreadPoolExecutor(8) as pool:
        for shard, table in zip(shards, pool.map(store.shard_index_with_hashes, shards), strict=True):
            for row in table.select(["image_id", "version", "row", "failed", HASH]).to_pylist():
                if row["failed"]:
                    failed.add(row["image_id"])
                else:
                    rows[row["image_id"]] = _Row(row["version"], (shard, row["row"]), row[HASH])
    return rows, failed


def roll_back(url: str, target: Snapshot) -> Snapshot:
    """Publishes the content of ``target`` as the newest snapshot, unless the newest one already has it."""

    def next_after(newest: Snapshot) -> Snapshot | None:
        if (newest.manifests, newest.deletes) == (target.manifests, target.deletes):
            return None
        return dataclasses.replace(target, operation="rollback", note=f"to snapshot {target.id}")

    return publish_change(url, next_after)


def publish_change(url: str, change: Callable[[Snapshot], Snapshot | None]) -> Snapshot:
    """Publishes the result of ``change`` for the newest snapshot (see ``layout.publish_next``). Raises StoreError."""
    return layout.publish_next(url, lambda newest: change(newest) if newest else None)


def snapshot_number(url: str, text: str) -> int:
    """Returns the number of a snapshot given by number or tag. Raises StoreError, RequestError."""
    return layout.load_snapshot(url, tags.snapshot_number(url, text)).id
