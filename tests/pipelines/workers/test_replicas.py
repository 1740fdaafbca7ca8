"""Copies of one model, each on its device: a batch takes one that is free."""

from __future__ import annotations

import threading

import pytest

from captionbeam.pipelines.bulk.plan import planned_shards, read_shard, write_plan
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.workers.engine import SHARDS, Engine
from captionbeam.pipelines.workers.replicas import Replicas
from captionbeam.pipelines.workers.shards import process_shard
from captionbeam.schemas import Store
from captionbeam.schemas.errors import OutOfMemory, SystemicError
from captionbeam.schemas.records import ImageRef
from tests.builders.data.runs import Mean, features_run, fetch_from

ITEMS = {f"{n:02d}.jpg": bytes([n + 1]) for n in range(24)}


def encode(folder, processor):
    """One shard of all items, planned as a run would plan it; returns the published rows."""
    run = features_run(folder)
    write_plan(run, "loose-0", [ImageRef(name, name, "/", "v") for name in ITEMS], len(ITEMS))
    (shard,) = planned_shards(run)
    process_shard(shard.shard_id, read_shard(shard), Engine(processor, 2), run, fetch_from(ITEMS))
    publish(run)
    return {
        row["image_id"]: row["grid"]
        for batch in Store.open(run.url).scan(["image_id", "grid"])
        for row in batch.to_pylist()
    }


def test_a_batch_takes_the_device_that_is_free(tmp_path):
    """The first batch computes until two others are done, which the other device does."""
    over, seen = threading.Event(), []

    def slow(ids):
        assert over.wait(30)

    def fast(ids):
        seen.append(ids)
        if len(seen) == 2:
            over.set()

    replicas = Replicas({"a": Mean(breaks=slow), "b": Mean(breaks=fast)})
    assert encode(tmp_path / "two", replicas) == encode(tmp_path / "one", Mean())
    assert sum(replicas.devices.values()) == 6


def test_every_device_gets_smaller_batches_after_one_was_out_of_memory(tmp_path):
    def full(ids):
        if len(ids) > 2:
            raise OutOfMemory("CUDA out of memory")

    first, second = Mean(breaks=full), Mean(breaks=full)
    rows = encode(tmp_path / "two", Replicas({"a": first, "b": second}))
    assert rows == encode(tmp_path / "one", Mean())
    assert first.batch_size == second.batch_size == 2


def test_a_broken_device_stops_the_job_though_others_work(tmp_path):
    def broken(ids):
        raise SystemicError("the device is broken: CUDA error")

    with pytest.raises(SystemicError, match="the device is broken"):
        encode(tmp_path, Replicas({"a": Mean(), "b": Mean(breaks=broken)}))


def test_an_engine_works_on_two_shards_for_each_device():
    replicas = Replicas({"a": Mean(streams=2), "b": Mean(streams=1)})
    assert replicas.streams == 3
    assert Engine(replicas, 2).limits["shards"] == 2 * SHARDS
