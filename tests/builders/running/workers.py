"""What a run's worker processes held, asserted: one engine a process, within its limits."""

from __future__ import annotations

from captionbeam.schemas.machine import threads_each
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.workers import WorkerRecord, read_workers


def one_engine_a_process(
    store: str, run: str | None = None, killed: bool = False, threads: int | None = None, processes: int = 1
) -> list[WorkerRecord]:
    """The records of the processes of a run on the store at ``store`` (by default its newest snapshot's run).

    Asserts that each process loaded one model and stayed within its bounds, whatever number of bundles Beam gave it,
    and that together they did every shard that the run committed (``killed``: or less, as a killed process's record
    may lack its last second). ``threads`` is what the job asked for; else each has its part of the cores that
    ``processes`` share.
    """
    newest = layout.newest_snapshot(str(store))
    run = run or (newest.run if newest else None)
    assert run is not None, f"{store} has no snapshot, and no run was named"
    records = read_workers(files.join(str(store), "plans", run))
    assert records, f"run {run} has no record of a worker process"
    assert len({(record.host, record.pid) for record in records}) == len(records), (
        "two engines in one process"
    )
    for record in records:
        _within_limits(record)
        assert record.threads == threads_each(threads, processes)
    _all_shards(str(store), run, records, killed)
    return records


def _within_limits(record: WorkerRecord) -> None:
    who = f"process {record.pid} on {record.host}"
    assert record.models == 1, f"{who} loaded {record.models} models"
    for name, limit in record.limits.items():
        assert record.most[name] <= limit, (
            f"{who} had {record.most[name]} {name} at once; expected {limit} at most"
        )
    assert record.limits.keys() == record.most.keys() - {"bundles"}
    assert record.limits["preparing"] == record.threads
    assert record.limits["batches"] <= record.threads
    assert record.most["bundles"] >= record.most["shards"]
    assert record.peak_rss_bytes > 0


def _all_shards(store: str, run: str, records: list[WorkerRecord], killed: bool) -> None:
    commits = layout.load_commits(store, layout.committed_shards(store))
    mine = [commit for commit in commits if commit.run == run]
    counted = sum(record.shards for record in records)
    images = sum(record.images for record in records)
    if killed:
        assert counted <= len(mine)
    else:
        assert counted >= len(mine)  # two attempts at a shard are both work that was done
        assert images >= sum(commit.rows + commit.failed for commit in mine)
