"""One engine a process: however many shards at once, one model, so many threads, so much in memory."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from captionbeam.pipelines.bulk.plan import planned_shards, read_shard, write_plan
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.workers.engine import SHARDS, Engine, Gauge, load_engine
from captionbeam.pipelines.workers.shards import process_shard
from captionbeam.schemas import Store
from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.store import layout
from tests.builders.data.runs import Loads, Mean, features_run, fetch_from
from tests.builders.running.workers import one_engine_a_process

ITEMS = {f"{n:03d}.jpg": bytes([n % 250 + 1, n // 250 + 1]) for n in range(600)}


def planned(folder, shard_size=60):
    run = features_run(folder)
    write_plan(run, "loose-0", [ImageRef(name, name, "/", "v") for name in ITEMS], shard_size)
    return run, planned_shards(run)


def at_once(run, shards, engine, fetch):
    """Each shard on a thread of its own, as Beam runs bundles."""

    def work(shard):
        report, _ = process_shard(shard.shard_id, read_shard(shard), engine, run, fetch)
        engine.did(report.rows)
        engine.write_record()

    with ThreadPoolExecutor(len(shards)) as bundles:
        list(bundles.map(work, shards))


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (3, 2)])
def test_ten_bundles_at_once_hold_no_more_than_two_shards(tmp_path, threads, streams):
    run, shards = planned(tmp_path)
    processor = Mean(batch_size=4, streams=streams)
    engine = load_engine(Loads(processor), threads, run=run)
    at_once(run, shards, engine, fetch_from(ITEMS))
    publish(run)
    (record,) = one_engine_a_process(run.url, threads=threads)
    assert (record.shards, record.images) == (10, 600)
    assert record.most["bundles"] > SHARDS >= record.most["shards"]
    assert record.limits["batches"] == streams
    assert sorted(Store.open(run.url).ids()) == sorted(ITEMS)


def test_more_shards_than_two_never_read_ahead_more(tmp_path):
    """Counted from outside: what was fetched and is not through the model yet."""
    run, shards = planned(tmp_path)
    held, lock = Gauge(), threading.Lock()

    def fetch(window):
        held.add(len(window))
        return fetch_from(ITEMS)(window)

    def breaks(ids):
        with lock:
            time.sleep(0.001)
            held.add(-len(ids))

    engine = Engine(Mean(batch_size=8, breaks=breaks), threads=2)
    at_once(run, shards, engine, fetch)
    assert held.now == 0
    assert 0 < held.most <= engine.limits["images"]


def test_a_shard_that_fails_gives_back_its_turn_and_what_it_held(tmp_path):
    run, shards = planned(tmp_path)

    def breaks(ids):
        raise SystemicError("the device is gone")

    engine = Engine(Mean(breaks=breaks), threads=2)
    for shard in shards[: SHARDS + 1]:
        with pytest.raises(SystemicError):
            process_shard(shard.shard_id, read_shard(shard), engine, run, fetch_from(ITEMS))
    assert (engine.bundles.now, engine.shards.now, engine.images.now) == (0, 0, 0)
    assert layout.committed_shards(run.url) == set()


def test_a_record_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    run, shards = planned(tmp_path)
    Path(run.folder, "workers").write_text("a file where the folder should be")
    at_once(run, shards, load_engine(Loads(Mean()), 1, run=run), fetch_from(ITEMS))
    assert publish(run).totals["rows"] == len(ITEMS)
    assert "the record of this worker cannot be written" in caplog.text
