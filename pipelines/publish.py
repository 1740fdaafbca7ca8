"""PublishSnapshot: the base, plus this run's commits, becomes the store's next snapshot in one atomic step."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.boundary import across_workers
from pipelines.plan import planned_shards
from pipelines.run import Run, adopted_manifest, check_same, now
from schemas import arrow, files, layout, parquet
from schemas.errors import SystemicError, TooManyFailures
from schemas.layout import Snapshot
from schemas.records import address, named_places, parse_address, superseded
from schemas.store import Dead, Store

ATTEMPTS = 100


class PublishSnapshot(beam.PTransform):
    """Shard reports in, one ``(snapshot number, totals)`` out, once all of them are there."""

    def __init__(self, run: Run, max_failures: float | None = None) -> None:
        super().__init__()
        self._run, self._max = run, max_failures

    def expand(self, reports: beam.PCollection) -> beam.PCollection:
        return (
            reports
            | "AwaitShards" >> beam.CombineGlobally(beam.combiners.CountCombineFn())
            | "Publish" >> beam.Map(across_workers(_publish_run), run=self._run, max_failures=self._max)
        )


def _publish_run(_: int, run: Run, max_failures: float | None) -> int:
    return publish(run, max_failures).id


def publish(run: Run, max_failures: float | None = None) -> Snapshot:
    """Publish the run's snapshot, or give the newest back where there is nothing to add.

    Whoever published since this run's base was frozen is joined again: shards that are in the newest snapshot
    already are left out, and of an image that is there twice the newer row is deleted, so that no writer loses
    another's rows. ``max_failures`` below 1 is a share of the snapshot's images, else a number. Raises
    TooManyFailures; FingerprintError where somebody published other rows first; SystemicError where a planned shard
    has no commit.
    """
    for _ in range(ATTEMPTS):
        newest = layout.newest_snapshot(run.url)
        added = _added(run, newest)
        check_same(run.url, newest, run.kind, run.format, run.fingerprint)
        if newest is not None and not added:
            _check_failures(run, newest, added, max_failures)
            return newest
        snapshot = _next(run, newest, added)
        _check_failures(run, snapshot, added, max_failures)
        if layout.create_snapshot(run.url, snapshot):
            return snapshot
    raise SystemicError(
        f"{ATTEMPTS} others published to {run.url} first, one after the other; expected a turn"
    )


def _added(run: Run, newest: Snapshot | None) -> list[dict[str, Any]]:
    """Manifest rows of adopted and own shards that ``newest`` does not have, those of older runs first."""
    known = set(Store(run.url, newest).manifest.column("shard").to_pylist()) if newest else set()
    shards = [shard.shard_id for shard in planned_shards(run)]
    commits = layout.load_commits(run.url, shards)
    if len(commits) < len(shards):
        missing = sorted(set(shards) - {commit.shard for commit in commits})
        raise SystemicError(f"{len(missing)} planned shards have no commit ({missing[0]}, ...); expected all")
    rows = {
        row["shard"]: row for row in [*adopted_manifest(run), *(commit.manifest_row() for commit in commits)]
    }
    return [row for shard, row in rows.items() if shard not in known]


def _next(run: Run, newest: Snapshot | None, added: list[dict[str, Any]]) -> Snapshot:
    number = newest.id + 1 if newest else 1
    name = f"{number:08d}-{run.run_id}.parquet"
    indexes = {row["shard"]: parquet.read_table(files.join(run.url, "index", row["index"])) for row in added}
    deletes = _new_deletes(run, newest, settle(indexes, _published(run, newest, indexes)))
    manifests = (*newest.manifests, f"manifests/{name}") if newest else (f"manifests/{name}",)
    layout.write_table(run.url, f"manifests/{name}", added, arrow.MANIFEST)
    delete_files = newest.deletes if newest else ()
    if deletes:
        delete_files = (*delete_files, layout.write_table(run.url, f"deletes/{name}", deletes, arrow.DELETES))
    return Snapshot(
        id=number,
        parent=newest.id if newest else None,
        run=run.run_id,
        kind=run.kind,
        format=run.format,
        fingerprint=run.fingerprint,
        spec=dict(run.spec),
        column=run.column,
        shape=run.shape,
        manifests=manifests,
        deletes=delete_files,
        totals=_totals(newest, added, deletes),
        created=now(),
    )


def settle(indexes: Mapping[str, pa.Table], published: Mapping[str, set[str]]) -> dict[str, dict[str, Any]]:
    """The deletes, by address, that leave each image of the new shards what became of it last, once.

    A new row deletes those that it replaces; one whose image has another row already that it does not replace is
    a duplicate (of another writer's), and goes itself. A transient failure leaves the row of the image's earlier
    version in place until it is known what became of the new one; a permanent failure does not: that image is
    gone. ``published`` has the addresses of the newest snapshot's rows by image; the new shards come in order.
    """
    live = {image_id: set(places) for image_id, places in published.items()}
    deletes: dict[str, dict[str, Any]] = {}
    for shard, table in indexes.items():
        for row in table.select(["image_id", "row", "failed", "code", "replaces"]).to_pylist():
            place = address(shard, row["row"], row["failed"])
            places, replaced = live.setdefault(row["image_id"], set()), named_places(row["replaces"])
            if places - replaced:
                deletes[place] = _delete(place, row["image_id"], "duplicate")
                continue
            gone = superseded(row["code"], replaced)
            deletes.update((old, _delete(old, row["image_id"], "replaced")) for old in gone)
            places -= gone
            places.add(place)
    return deletes


def _delete(place: str, image_id: str, reason: str) -> dict[str, Any]:
    shard, row, failed = parse_address(place)
    return {"shard": shard, "row": row, "failed": failed, "image_id": image_id, "reason": reason}


def _new_deletes(
    run: Run, newest: Snapshot | None, deletes: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Those deletes that no earlier snapshot has made, so that a row is never counted out twice."""
    earlier = Store(run.url, newest).dead if newest else {}
    return [
        delete
        for delete in deletes.values()
        if delete["row"] not in _dead_of(earlier.get(delete["shard"], Dead()), delete["failed"])
    ]


def _dead_of(dead: Dead, failed: bool) -> frozenset[int]:
    return dead.failed if failed else dead.rows


def _published(run: Run, newest: Snapshot | None, indexes: dict[str, pa.Table]) -> dict[str, set[str]]:
    """Addresses of the newest snapshot's rows of the new shards' images; none where it is the run's own base."""
    if newest is None or (newest.id == run.parent and not adopted_manifest(run)):
        return {}
    columns = [chunk for table in indexes.values() for chunk in table.column("image_id").chunks]
    wanted, found = pa.chunked_array(columns, pa.string()), defaultdict(set)
    for shard, table in Store(run.url, newest).index():
        for row in table.filter(pc.is_in(table.column("image_id"), wanted)).to_pylist():
            found[row["image_id"]].add(address(shard, row["row"], row["failed"]))
    return found


def _totals(
    newest: Snapshot | None, added: list[dict[str, Any]], deletes: list[dict[str, Any]]
) -> dict[str, int]:
    totals = Counter(newest.totals if newest else {})
    gone = Counter("failed" if delete["failed"] else "rows" for delete in deletes)
    for name, column in (("rows", "rows"), ("failed", "failed"), ("bytes", "bytes")):
        totals[name] += sum(row[column] for row in added) - gone[name]
    totals["shards"] += len(added)
    totals["deleted"] += len(deletes)
    return dict(totals)


def _check_failures(
    run: Run, snapshot: Snapshot, added: list[dict[str, Any]], max_failures: float | None
) -> None:
    failed, images = snapshot.totals["failed"], snapshot.totals["failed"] + snapshot.totals["rows"]
    if max_failures is None or failed <= (max_failures if max_failures >= 1 else max_failures * images):
        return
    raise TooManyFailures(
        f"{failed} of {images} images failed ({_examples(run, added)}); expected at most {max_failures:g} "
        f"(--max-failures): not published; the rows are kept, and a run that allows more publishes them"
    )


def _examples(run: Run, added: list[dict[str, Any]]) -> str:
    """The new failures by code, and one image of each."""
    failures = [
        failure
        for row in added
        if row["failed"]
        for failure in parquet.read_table(files.join(run.url, "failures", row["failures"])).to_pylist()
    ]
    counts = Counter(failure["code"] for failure in failures)
    first = {failure["code"]: failure["image_id"] for failure in reversed(failures)}
    return (
        ", ".join(f"{count} {code}, as {first[code]!r}" for code, count in counts.most_common()) or "none new"
    )
