"""PublishSnapshot: publishes the base and this run's commits as the store's next snapshot, in one atomic step."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import PCollection
from apache_beam.transforms.combiners import CountCombineFn

from captionbeam.pipelines.bulk.changed_columns import RewrittenColumns, read_rewritten
from captionbeam.pipelines.bulk.compare import read_counts, read_gone
from captionbeam.pipelines.bulk.conflicts import INDEX_COLUMNS, resolve_conflicts
from captionbeam.pipelines.bulk.gates import Gates, check_failures, check_gates
from captionbeam.pipelines.bulk.kept_schema import kept_schema
from captionbeam.pipelines.bulk.listing_record import read_listing
from captionbeam.pipelines.bulk.plan import planned_shards
from captionbeam.pipelines.bulk.run import Run, adopted_manifest, check_same, lists_all, merged_request
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.pipelines.workers.exif import exif_schema
from captionbeam.schemas.errors import FingerprintError, RequestError, SystemicError
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.formats.kept import kinds_in, merged, schema_of, schema_text
from captionbeam.schemas.records import address
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.layout import Snapshot
from captionbeam.schemas.store.reading import Store
from captionbeam.schemas.store.rows import DeleteRow, ManifestRow, delete_row, totals_of, write_lists

Renewed = tuple[ManifestRow, ManifestRow]  # a shard's former row, and that with new columns
READERS = 16
OPEN = Gates()


class PublishSnapshot(beam.PTransform[PCollection[object], PCollection[int]]):
    """Takes shard reports (and other elements to wait for), returns one snapshot number after all have arrived."""

    def __init__(self, run: Run, gates: Gates = OPEN) -> None:
        super().__init__()
        self._run, self._gates = run, gates

    def expand(self, reports: PCollection[object]) -> PCollection[int]:
        return (
            reports
            | "AwaitShards" >> beam.CombineGlobally(CountCombineFn())
            | "Publish" >> beam.Map(across_workers(_publish_run), run=self._run, gates=self._gates)
        )


def _publish_run(_: int, run: Run, gates: Gates) -> int:
    return publish(run, gates).id


def publish(run: Run, gates: Gates = OPEN) -> Snapshot:
    """Publishes the run's snapshot, or returns the newest one if there is nothing to add or delete.

    Merges snapshots that other writers published since the run's base was frozen, without losing their rows: shards
    that are already in the newest snapshot are left out, duplicate rows of an image are deleted, and gone rows are
    deleted only if they are still live. Columns that the run rewrote are published where the newest snapshot has the
    columns that they replace; the next run finds the other differences again. Raises TooManyFailures and HeldBack (see
    Gates), RequestError if a sample leaves no image for a store's first snapshot, FingerprintError if a snapshot with
    other rows was published meanwhile, and SystemicError if a planned shard has no commit.
    """

    rewritten = read_rewritten(run) if run.keeps else []

    def next_after(newest: Snapshot | None) -> Snapshot | None:
        kept = _kept(run, newest)
        added, renewed = _with_columns(run, rewritten, _added(run, kept), kept)
        deletes = _deletes(run, kept, added)
        if newest is not None and not added and not renewed and not deletes and _keeps_the_same(run, kept):
            check_failures(gates.max_failures, run, newest, added)
            return None
        if newest is None and not added:
            _check_sample(run)
        snapshot = _next(run, newest, kept, added, renewed, deletes)
        gone = [delete["image_id"] for delete in deletes if delete["reason"] == "gone"]
        check_gates(gates, run, newest, snapshot, added, gone, read_counts(run).get("known", 0))
        rows = [*(after for _, after in renewed), *added]
        write_lists(run.url, _list_name(run, newest), rows if rows or kept is None else None, deletes)
        return snapshot

    return layout.publish_next(run.url, next_after)


def _list_name(run: Run, newest: Snapshot | None) -> str:
    return f"{newest.id + 1 if newest else 1:08d}-{run.run_id}.parquet"


def _check_sample(run: Run) -> None:
    """Raises RequestError if the run, which has no image, lists a sample."""
    entries = [run.request.get("options", {}), *run.request.get("sources", ())]
    shares = [entry["sample"] for entry in entries if "sample" in entry]
    if shares:
        images = sum(one.images for one in read_listing(run))
        raise RequestError(
            f"--sample {max(shares):g} leaves none of the images{f' ({images:,} listed)' if images else ''}; "
            f"expected a share that leaves one or more for the new store {run.url}"
        )


def _kept(run: Run, newest: Snapshot | None) -> Snapshot | None:
    """Returns the snapshot that the run adds to, or None if the run redoes all rows of ``newest``.

    Raises FingerprintError, RequestError if the run cannot add to ``newest``.
    """
    other = newest is not None and newest.fingerprint != run.fingerprint
    if run.redo and newest is not None and other and newest.id == run.parent:
        check_same(run.url, newest, run.kind, run.format, run.spec, None)
        return None
    if run.redo and newest is not None and other:
        raise FingerprintError(
            f"somebody published snapshot {newest.id} of {run.url} with fingerprint {newest.fingerprint} while all "
            "was done again; expected nobody to: the same command again keeps what is done"
        )
    check_same(run.url, newest, run.kind, run.format, run.spec, run.fingerprint)
    return newest


def _added(run: Run, newest: Snapshot | None) -> list[ManifestRow]:
    """Returns manifest rows of adopted and own shards that ``newest`` lacks, those of older runs first."""
    known = {row["shard"] for row in Store(run.url, newest).shards} if newest else set()
    shards = [shard.shard_id for shard in planned_shards(run)]
    commits = layout.load_commits(run.url, shards)
    if len(commits) < len(shards):
        missing = sorted(set(shards) - {commit.shard for commit in commits})
        raise SystemicError(f"{len(missing)} planned shards have no commit ({missing[0]}, ...); expected all")
    rows = {
        row["shard"]: row for row in [*adopted_manifest(run), *(commit.manifest_row() for commit in commits)]
    }
    return [row for shard, row in rows.items() if shard not in known]


def _with_columns(
    run: Run, rewritten: list[RewrittenColumns], added: list[ManifestRow], kept: Snapshot | None
) -> tuple[list[ManifestRow], list[Renewed]]:
    """Returns the rows of new shards, and former and new row of shards of ``kept`` whose columns the run rewrote."""
    own = {one.shard: one for one in rewritten}
    rows = [(own[row["shard"]].of(row) or row) if row["shard"] in own else row for row in added]
    published = Store(run.url, kept).shards if kept is not None and own else []
    found = [(row, own[row["shard"]].of(row)) for row in published if row["shard"] in own]
    return rows, [(before, after) for before, after in found if after is not None]


def _next(
    run: Run,
    newest: Snapshot | None,
    kept: Snapshot | None,
    added: list[ManifestRow],
    renewed: list[Renewed],
    deletes: list[DeleteRow],
) -> Snapshot:
    """Returns the snapshot after ``newest``: what is ``kept`` of it, some with new columns, and the new shards."""
    name = _list_name(run, newest)
    manifests, earlier, before = (kept.manifests, kept.deletes, kept.totals) if kept else ((), (), {})
    totals = _sum(before, totals_of(added, deletes))
    totals["bytes"] += sum(new["bytes"] - old["bytes"] for old, new in renewed)
    request = merged_request(newest.request if newest else {}, run)
    return Snapshot(
        id=0,  # publishing sets it, parent and time
        parent=None,
        run=run.run_id,
        kind=run.kind,
        format=run.format,
        fingerprint=run.fingerprint,
        spec=dict(run.spec),
        column=run.column,
        shape=run.shape,
        manifests=(*manifests, f"manifests/{name}") if added or renewed or kept is None else manifests,
        deletes=(*earlier, f"deletes/{name}") if deletes else earlier,
        totals=totals,
        created="",
        operation=run.operation,
        request=request,
        kept=_kept_columns(run, kept, request),
        exif=schema_text(exif_schema([*schema_of(kept.exif if kept else "").names, *run.exif])),
    )


def _kept_columns(run: Run, kept: Snapshot | None, request: Mapping[str, Any]) -> str:
    """Returns the kept columns of the run and of the rows that it adds to, with types for all of them.

    After a refresh of all sources, to which no other writer has added, every row has the run's columns and no others.
    """
    own, adopted = kept_schema(run), adopted_manifest(run)
    if _has_own_columns(run, kept, request):
        return schema_text(own)
    urls = [files.join(run.url, "columns", row["columns"]) for row in adopted if row["columns"]]
    with ThreadPoolExecutor(READERS) as pool:
        seen = list(pool.map(lambda url: kinds_in(parquet.read_table(url)), urls))
    return schema_text(functools.reduce(merged, [schema_of(kept.kept if kept else ""), own, *seen]))


def _keeps_the_same(run: Run, kept: Snapshot | None) -> bool:
    if kept is None or not _has_own_columns(run, kept, kept.request):
        return True
    return schema_text(kept_schema(run)) == kept.kept


def _has_own_columns(run: Run, kept: Snapshot | None, request: Mapping[str, Any]) -> bool:
    """Returns whether every row has the columns that the run keeps, or none as it was asked for, and no others."""
    alone = kept is not None and kept.id == run.base and not adopted_manifest(run)
    asked = {tuple(entry.get("keep_columns", ())) for entry in run.request.get("sources", ())}
    decided = run.keeps or asked == {("none",)}
    return bool(decided and alone and kept and kept.request and lists_all(run, request))


def _sum(before: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {name: before.get(name, 0) + count for name, count in more.items()}


def _deletes(run: Run, kept: Snapshot | None, added: list[ManifestRow]) -> list[DeleteRow]:
    """Returns the deletes for replaced rows and for rows that left the listing, once each and only for live rows."""
    adopted = adopted_manifest(run)
    alone = (kept is None or kept.id == run.base) and not adopted
    indexes = _read_indexes(run, added, replacing=alone)
    gone = {place: delete_row(place, image_id, "gone") for place, image_id in read_gone(run).items()}
    store = Store(run.url, kept) if kept else None
    there = {*indexes, *(row["shard"] for row in (store.shards if store else ()))}
    published = {} if alone or store is None else _published(store, indexes)
    wanted = {**gone, **resolve_conflicts(indexes, published, there)}
    found = [row for row in wanted.values() if row["shard"] in there and not (store and _is_dead(store, row))]
    return _with_own_ids(store, indexes, found) if store and (run.adopts or adopted) else found


def _with_own_ids(store: Store, indexes: Mapping[str, pa.Table], deletes: list[DeleteRow]) -> list[DeleteRow]:
    """Returns the deletes with the ids that the rows have: an adopted row was replaced under a new one."""
    there = {row["shard"] for row in store.shards}
    shards = sorted({row["shard"] for row in deletes} & there)
    with ThreadPoolExecutor(READERS) as pool:
        tables = {**indexes, **dict(zip(shards, pool.map(store.shard_index, shards), strict=True))}
    ids = {
        (shard, row["row"], row["failed"]): row["image_id"]
        for shard, table in tables.items()
        for row in table.select(["row", "failed", "image_id"]).to_pylist()
    }
    return [
        {**row, "image_id": ids.get((row["shard"], row["row"], row["failed"]), row["image_id"])}
        for row in deletes
    ]


def _is_dead(store: Store, row: DeleteRow) -> bool:
    dead = store.dead_in(row["shard"])
    return row["row"] in (dead.failed if row["failed"] else dead.rows)


def _read_indexes(run: Run, added: list[ManifestRow], replacing: bool) -> dict[str, pa.Table]:
    """Reads INDEX_COLUMNS of each new shard: all rows, or only those that replace others.

    If no other writer published, an image is in one new shard only, so rows that replace nothing cannot be
    duplicates.
    """

    def read(row: ManifestRow) -> pa.Table:
        table = parquet.read_table(files.join(run.url, "index", row["index"]), INDEX_COLUMNS)
        return table.filter(pc.not_equal(table.column("replaces"), "")) if replacing else table

    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip((row["shard"] for row in added), pool.map(read, added), strict=True))


def _published(store: Store, indexes: dict[str, pa.Table]) -> dict[str, dict[str, str | None]]:
    """Returns addresses and versions of the newest snapshot's rows for images of the new shards."""
    if not indexes:
        return {}
    columns = [chunk for table in indexes.values() for chunk in table.column("image_id").chunks]
    wanted, found = pa.chunked_array(columns, pa.string()), defaultdict[str, dict[str, str | None]](dict)
    for shard, table in store.index():
        for row in table.filter(pc.is_in(table.column("image_id"), wanted)).to_pylist():
            found[row["image_id"]][address(shard, row["row"], row["failed"])] = row["version"]
    return found
