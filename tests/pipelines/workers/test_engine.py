"""One engine a process: however many shards at once, one model, so many threads, so much in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from captionbeam.pipelines.bulk.plan import planned_shards, read_shard, write_plan
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.workers import engine as engines
from captionbeam.pipelines.workers.engine import SHARDS, Engine, Gauge, load_engine
from captionbeam.pipelines.workers.shards import process_shard
from captionbeam.schemas import Store
from captionbeam.schemas.errors import StoreError, SystemicError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.workers import read_workers
from tests.builders.commands import ROOT, environment
from tests.builders.runs import Loads, Mean, features_run, fetch_from
from tests.builders.workers import one_engine_a_process

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


def test_eight_bundles_take_the_memory_of_two(tmp_path):
    """Of 64 images of 1 MB each that four shards more would hold; a single bundle holds one shard's."""
    two, eight = (held(tmp_path / str(bundles), bundles) for bundles in (2, 8))
    assert eight < two + (64 << 20)


def held(folder, bundles):
    """The most memory of a process that has so many bundles at once, each of 128 images of 1 MB."""
    script = Path(__file__).parents[2] / "builders" / "held.py"
    done = subprocess.run(
        [sys.executable, script, folder, str(bundles)], env=environment(), cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


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


def test_a_second_model_in_a_process_is_on_record(tmp_path):
    run, shards = planned(tmp_path)
    for _ in range(2):
        engine = load_engine(Loads(Mean()), 1, run=run)
    at_once(run, shards, engine, fetch_from(ITEMS))
    publish(run)
    (record,) = read_workers(run.folder)
    assert record.models == 2
    with pytest.raises(AssertionError, match="loaded 2 models"):
        one_engine_a_process(run.url)


def test_a_record_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    run, shards = planned(tmp_path)
    Path(run.folder, "workers").write_text("a file where the folder should be")
    at_once(run, shards, load_engine(Loads(Mean()), 1, run=run), fetch_from(ITEMS))
    assert publish(run).totals["rows"] == len(ITEMS)
    assert "the record of this worker cannot be written" in caplog.text


def test_the_record_is_written_while_the_process_works(tmp_path, monkeypatch):
    run, shards = planned(tmp_path)
    monkeypatch.setattr(engines, "SECONDS", 0.0)
    engine, seen = load_engine(Loads(Mean()), 1, run=run), []
    for shard in shards[:3]:
        process_shard(shard.shard_id, read_shard(shard), engine, run, fetch_from(ITEMS))
        engine.did(60)
        seen.append(read_workers(run.folder)[0].shards)
    assert seen == [1, 2, 3]


def test_a_newer_record_is_refused_with_one_sentence(tmp_path):
    run, _ = planned(tmp_path)
    load_engine(Loads(Mean()), 1, run=run)
    (path,) = Path(run.folder, "workers").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9, "of_the_future": 1}))
    with pytest.raises(StoreError, match="has version 9; this captionbeam reads up to 1: upgrade it"):
        read_workers(run.folder)
