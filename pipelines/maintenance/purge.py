"""Purging: removes images physically from the files of all snapshots, and from leftovers of interrupted runs.

First a snapshot without the images is published, on which later runs build. Then the commits of the shards that held
them are removed, and earlier snapshots are overwritten, with the same numbers and the remaining rows. Finally all
files that no snapshot names and that contain one of the ids are removed, and kept answers and plans are rewritten
without the ids. Each step determines the remaining work from the store, so an interrupted purge can be run again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionbeam.pipelines.maintenance.history import publish_change
from captionbeam.pipelines.maintenance.kept_answers import purge_answers
from captionbeam.pipelines.maintenance.rewrite import (
    NewShard,
    Part,
    rewrite_rows,
    with_columns,
    with_lists,
)
from captionbeam.pipelines.maintenance.stored_files import list_files, remove
from captionbeam.pipelines.tokens.publish import count_split
from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.formats.datafile import open_data
from captionbeam.schemas.formats.tokens import RECORD, SPLITS, TABLE, TokenTable, table_bytes
from captionbeam.schemas.match_ids import match_images
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.layout import Snapshot
from captionbeam.schemas.store.rows import (
    FOLDERS,
    DeleteRow,
    ManifestRow,
    files_of,
    read_deletes,
    read_manifest,
    read_manifests,
)

READERS, ROUNDS = 16, 10


@dataclass
class Purged:
    """Result of a purge: ids found, snapshots changed, number of files removed, and leftovers that cannot be read."""

    ids: set[str] = field(default_factory=set)
    snapshots: set[int] = field(default_factory=set)
    files: int = 0
    unreadable: list[str] = field(default_factory=list)


def purge(url: str, ids: Collection[str]) -> Purged:
    """Removes the images ``ids`` from the store at ``url``. Ids that are not in the store are ignored.

    Repeats its steps to find rows that other writers commit meanwhile. Raises SystemicError if they keep adding rows.
    """
    work = _Purge(url, frozenset(ids))
    for _ in range(ROUNDS):
        if not work.round():
            return work.done
    raise SystemicError(f"others kept adding to {url} what is to be purged; expected them to stop")


class _Purge:
    def __init__(self, url: str, ids: frozenset[str]) -> None:
        self.url, self.ids, self.done = url, ids, Purged()
        self._wanted = pa.array(sorted(ids), pa.string())
        self._parts: dict[str, Part | None] = {}
        self._rewritten: dict[str, NewShard | None] = {}
        self._rows: dict[tuple[str, str | None], ManifestRow] = {}  # by shard and file of kept columns

    def round(self) -> bool:
        """Runs all steps once. Returns whether there was anything to do."""

        def published(newest: Snapshot) -> Snapshot | None:
            clean = self._cleaned(newest)
            return clean and dataclasses.replace(clean, operation="purge", note=f"of {len(self.ids)} ids")

        before = layout.snapshot_ids(self.url)[-1]
        newest = publish_change(self.url, published)
        changed = newest.id > before and newest.operation == "purge"
        self.done.snapshots |= {newest.id} if changed else set()
        old = [clean for one in layout.load_snapshots(self.url) if (clean := self._cleaned(one)) is not None]
        held = {shard for shard, part in self._parts.items() if part is not None}
        commits = [f"commits/{shard}.json" for shard in sorted(held & layout.committed_shards(self.url))]
        remove(self.url, commits)
        for snapshot in old:
            where = files.join(self.url, layout.snapshot_name(snapshot.id))
            files.write_atomic(where, layout.snapshot_bytes(self.url, snapshot))
            self.done.snapshots.add(snapshot.id)
        gone = [*commits, *self._remove_leftovers(), *self._purge_answers()]
        self.done.files += len(gone)
        return bool(changed or old or gone or sum(map(self._clean_plan, self._plan_files())))

    def _cleaned(self, snapshot: Snapshot) -> Snapshot | None:
        """Returns the snapshot without the ids after writing its new files; None if it has none of the ids."""
        manifest = read_manifest(self.url, snapshot.manifests)
        deletes = read_deletes(self.url, snapshot.deletes)
        with ThreadPoolExecutor(READERS) as pool:
            parts = dict(zip((row["shard"] for row in manifest), pool.map(self._part, manifest), strict=True))
        held = {shard: part for shard, part in parts.items() if part is not None}
        if not held and not any(delete["image_id"] in self.ids for delete in deletes):
            return None
        made = [
            self._rewrite(snapshot, part._replace(manifest=row)) if (part := held.get(row["shard"])) else row
            for row in manifest
        ]
        rows = [row for row in made if row is not None]
        return with_lists(self.url, snapshot, "purge", rows, list(self._moved(deletes, held)))

    def _rewrite(self, snapshot: Snapshot, part: Part) -> ManifestRow | None:
        """Returns the manifest row of a part's new shard; None if it has no rows.

        Snapshots may name one shard with different kept columns: its other files are written once.
        """
        shard = part.manifest["shard"]
        if shard not in self._rewritten:
            self._rewritten[shard] = rewrite_rows(self.url, snapshot, [part])
        made, key = self._rewritten[shard], (shard, part.manifest["columns"])
        if made is not None and key not in self._rows:
            self._rows[key] = with_columns(self.url, snapshot, [part], made.manifest)
        return self._rows.get(key)

    def _part(self, row: ManifestRow) -> Part | None:
        """Returns the remaining rows of a shard; None if it has none of the ids."""
        if row["shard"] not in self._parts:
            index = parquet.read_table(files.join(self.url, "index", row["index"]))
            named = pc.is_in(index.column("image_id"), self._wanted)
            self.done.ids |= set(index.filter(named).column("image_id").to_pylist())
            rest = index.filter(pc.invert(named)).select(["row", "failed"]).to_pylist()
            rows = sorted(one["row"] for one in rest if not one["failed"])
            failed = sorted(one["row"] for one in rest if one["failed"])
            self._parts[row["shard"]] = Part(row, rows, failed) if pc.any(named).as_py() else None
        return self._parts[row["shard"]]

    def _moved(self, deletes: Iterable[DeleteRow], held: Collection[str]) -> Iterator[DeleteRow]:
        """Yields the deletes of other images, with their new row numbers."""
        for delete in deletes:
            one = self._rewritten.get(delete["shard"])
            if delete["image_id"] in self.ids:
                continue
            if delete["shard"] not in held:
                yield delete
            elif one is not None:
                row = one.moved[delete["shard"], delete["row"], delete["failed"]]
                yield {**delete, "shard": one.manifest["shard"], "row": row}

    def _remove_leftovers(self) -> list[str]:
        """Removes files with one of the ids that no snapshot names: superseded, unpublished and orphaned files."""
        snapshots = layout.load_snapshots(self.url)
        manifests = sorted({name for snapshot in snapshots for name in snapshot.manifests})
        rows = read_manifests(self.url, manifests)
        named = {path for row in rows for path, _ in files_of(row)}
        named |= {name for snapshot in snapshots for name in snapshot.deletes}
        listed = [entry.name for folder in (*FOLDERS, "deletes") for entry in list_files(self.url, folder)]
        with ThreadPoolExecutor(READERS) as pool:
            loose = [name for name in listed if name not in named]
            found = {name for name, holds in zip(loose, pool.map(self._holds, loose), strict=True) if holds}
        waiting = layout.committed_shards(self.url) - {row["shard"] for row in rows}
        commits = layout.load_commits(self.url, sorted(waiting))
        broken = [
            f"commits/{commit.shard}.json"
            for commit in commits
            if found & {path for path, _ in files_of(commit.manifest_row())}
        ]
        remove(self.url, broken)
        remove(self.url, sorted(found))
        return [*broken, *found]

    def _purge_answers(self) -> list[str]:
        done = purge_answers(self.url, self.ids)
        self.done.ids |= done.ids
        self.done.unreadable = sorted({*self.done.unreadable, *done.unreadable})
        return done.removed

    def _holds(self, name: str) -> bool:
        """Returns whether a file has a row of one of the ids. Incomplete files cannot be read and are reported."""
        try:
            ids = _ids_in(files.join(self.url, name))
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError):
            self.done.unreadable = sorted({*self.done.unreadable, name})
            return False
        return not self.ids.isdisjoint(ids)

    def _plan_files(self) -> list[str]:
        plans = files.join(self.url, "plans")
        folders = [files.join(plans, run, part) for run in files.names(plans) for part in ("parts", "gone")]
        return [files.join(folder, name) for folder in folders for name in files.names(folder)]

    def _clean_plan(self, url: str) -> bool:
        """Rewrites a plan file without the ids, one row group per shard. Returns whether it had any of them."""
        plan = pq.ParquetFile(pa.BufferReader(files.read_bytes(url)))
        groups = [plan.read_row_group(group) for group in range(plan.metadata.num_row_groups)]
        kept = [group.filter(pc.invert(pc.is_in(group.column("image_id"), self._wanted))) for group in groups]
        if sum(group.num_rows for group in kept) == plan.metadata.num_rows:
            return False
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, plan.schema_arrow, compression="zstd") as writer:
            for group in kept:
                if group.num_rows:
                    writer.write_table(group, row_group_size=group.num_rows)
        files.write_atomic(url, sink.getvalue().to_pybytes())
        return True


def _ids_in(url: str) -> list[str]:
    if "/data/" not in url:
        return cast(list[str], parquet.read_table(url, ["image_id"]).column("image_id").to_pylist())
    with closing(open_data(url)) as data:
        groups = [data.read(group, ["image_id"]).column(0) for group in range(len(data.group_rows))]
    return [name for group in groups for name in group.to_pylist()]


def purge_tokens(url: str, ids: Collection[str]) -> set[str]:
    """Removes the images ``ids`` from the token table at ``url``. Returns the table's ids of the removed images.

    Ids are matched as in training: by id, else by unique base name. The table is replaced atomically, then its
    record; an interrupted purge can be run again. Words that occur only in the removed captions stay in the
    tokenizer. Raises StoreError.
    """
    table = TokenTable.open(url)
    gone = set(match_images(ids, table.rows).values())
    rows = [row for row in table.table.to_pylist() if row["image_id"] not in gone]
    data = table_bytes(rows, table.record["tokenizer"]["fingerprint"])
    if not gone and table.sha256 == sha256_bytes(data):
        return gone
    splits = {}
    for split in SPLITS:  # the number of cut captions cannot be determined from the table
        own = ({**row, "cut": 0} for row in rows if row["split"] == split)
        splits[split] = {**count_split(own), "cut": table.record["splits"][split]["cut"]}
    record = {**table.record, "splits": splits, "sha256": sha256_bytes(data), "bytes": len(data)}
    files.write_atomic(files.join(url, TABLE), data)
    files.write_atomic(files.join(url, RECORD), files.json_bytes(record))
    return gone
