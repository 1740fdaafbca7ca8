"""Compaction: rewrites shards with many dead rows, merges small shards, and merges manifests and delete files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from captionbeam.pipelines.maintenance.history import publish_change
from captionbeam.pipelines.maintenance.rewrite import NewShard, Part, rewrite, with_lists
from captionbeam.schemas.store.layout import Snapshot
from captionbeam.schemas.store.reading import Store
from captionbeam.schemas.store.rows import read_deletes

SHARD_ROWS = 1024
WRITERS = 4
Key = tuple[tuple[str, str | None, tuple[int, ...], tuple[int, ...]], ...]
"""Shard, file of kept columns, rows and failures of each part."""


def compact(url: str, dead_share: float, small: int) -> tuple[Snapshot, int]:
    """Publishes the newest snapshot's rows in fewer files. Returns the snapshot and the number of rewritten shards.

    Rewrites shards with a share of dead rows above ``dead_share``, and merges shards with fewer than ``small`` live
    rows and failures. If another writer publishes meanwhile, starts again from the new snapshot and reuses what is
    already written. Publishes nothing if there is nothing to do.
    """
    written: dict[Key, NewShard | None] = {}
    count = 0

    def next_after(newest: Snapshot) -> Snapshot | None:
        nonlocal count
        store = Store(url, newest)
        bins = list(choose(store, dead_share, small))
        count = sum(len(parts) for parts in bins)
        if not bins and len(newest.manifests) <= 1 and len(newest.deletes) <= 1:
            return None
        missing = [parts for parts in bins if _key(parts) not in written]
        with ThreadPoolExecutor(WRITERS) as pool:
            made = pool.map(lambda parts: rewrite(url, newest, parts), missing)
            written.update(zip(map(_key, missing), made, strict=True))
        return _compacted(store, bins, [written[_key(parts)] for parts in bins])

    return publish_change(url, next_after), count


def choose(store: Store, dead_share: float, small: int) -> Iterator[list[Part]]:
    """Yields the shards to rewrite together, in the manifest's order, about SHARD_ROWS rows per new shard."""
    together: list[Part] = []
    heavy = False
    for row in store.shards:
        dead = store.dead_in(row["shard"])
        rows = [at for at in range(row["rows"]) if at not in dead.rows]
        part = Part(row, rows, [at for at in range(row["failed"]) if at not in dead.failed])
        gone, alive = len(dead.rows) + len(dead.failed), len(part.rows) + len(part.failed)
        is_heavy = gone > 0 and gone > dead_share * (gone + alive)
        if not is_heavy and alive >= small:
            continue
        size = sum(len(one.rows) + len(one.failed) for one in together)
        if together and size + alive > SHARD_ROWS:
            yield from [together] if heavy or len(together) > 1 else []
            together, heavy = [], False
        together, heavy = [*together, part], heavy or is_heavy
    yield from [together] if heavy or len(together) > 1 else []


def _key(parts: Sequence[Part]) -> Key:
    return tuple(
        (part.manifest["shard"], part.manifest["columns"], tuple(part.rows), tuple(part.failed))
        for part in parts
    )


def _compacted(store: Store, bins: list[list[Part]], made: list[NewShard | None]) -> Snapshot:
    """Returns the store's snapshot with the new shards, one manifest and at most one delete file."""
    gone = {part.manifest["shard"] for parts in bins for part in parts}
    manifest = [row for row in store.shards if row["shard"] not in gone]
    manifest += [one.manifest for one in made if one is not None]
    deletes = [row for row in read_deletes(store.url, store.snapshot.deletes) if row["shard"] not in gone]
    note = f"{len(gone)} shards into {sum(one is not None for one in made)}"
    compacted = with_lists(store.url, store.snapshot, "compact", manifest, deletes)
    return dataclasses.replace(compacted, operation="compact", note=note)
