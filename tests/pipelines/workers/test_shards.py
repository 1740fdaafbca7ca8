"""process_shard: every image a row or a failure, and a commit that comes first or not at all."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.pipelines.bulk.plan import planned_shards, read_shard, write_plan
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.workers.engine import Engine
from captionbeam.pipelines.workers.shards import process_shard
from captionbeam.schemas import Store
from captionbeam.schemas.errors import ImageError, OutOfMemory, SystemicError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.store import layout
from tests.builders.data.runs import Mean, features_run, fetch_from
from tests.builders.data.stores import rows_of

ITEMS = {f"{n:02d}.jpg": bytes([n]) for n in range(10)}


def process(tmp_path, items, processor=None, shard_size=100):
    run = features_run(tmp_path)
    refs = [ImageRef(name, f"/images/{name}", "/images", "v") for name in items]
    write_plan(run, "loose-0", refs, shard_size)
    engine = Engine(processor or Mean())
    reports = [
        process_shard(shard.shard_id, read_shard(shard), engine, run, fetch_from(items))[0]
        for shard in planned_shards(run)
    ]
    return run, reports


def rows(store):
    return {name: float(grid[0, 0, 0]) for name, grid in rows_of(store).items()}


def test_a_bad_image_costs_one_failure_and_its_batch_mates_nothing(tmp_path):
    items = {**ITEMS, "03.jpg": b"bad", "05.jpg": ImageError("timeout", "fetch", "too slow")}
    run, (report,) = process(tmp_path, items)
    publish(run)
    store = Store.open(run.url)
    assert (report.rows, report.failures) == (8, 2)
    assert {(row["image_id"], row["stage"], row["code"]) for row in store.failures().to_pylist()} == {
        ("03.jpg", "decode", "decode"),
        ("05.jpg", "fetch", "timeout"),
    }
    assert rows(store) == {f"{n:02d}.jpg": float(n) for n in range(10) if n not in (3, 5)}


def test_a_batch_that_the_model_fails_on_is_bisected_to_the_image(tmp_path):
    def breaks(ids):
        if "06.jpg" in ids:
            raise RuntimeError("shape mismatch\nand a long story")

    run, _ = process(tmp_path, ITEMS, Mean(breaks=breaks))
    publish(run)
    store = Store.open(run.url)
    assert len(rows(store)) == 9
    (failure,) = store.failures().to_pylist()
    assert (failure["image_id"], failure["code"]) == ("06.jpg", "model")
    assert failure["message"] == "RuntimeError: shape mismatch"


def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path):
    def breaks(ids):
        if len(ids) > 2:
            raise OutOfMemory("no room")

    processor = Mean(batch_size=8, breaks=breaks)
    _, (report,) = process(tmp_path, ITEMS, processor)
    assert report.rows == 10
    assert processor.batch_size == 2
    assert [len(batch) for batch in processor.batches] == [8, 4, 2, 2, 2, 2, 2]


def test_an_image_that_does_not_fit_alone_stops_the_job(tmp_path):
    def breaks(ids):
        raise OutOfMemory("no room")

    with pytest.raises(SystemicError, match="one image does not fit the device"):
        process(tmp_path, ITEMS, Mean(breaks=breaks))


@pytest.mark.parametrize("error", [SystemicError("the device is gone"), RuntimeError("always")])
def test_systemic_errors_commit_nothing(tmp_path, error):
    def breaks(ids):
        raise error

    with pytest.raises(SystemicError):
        process(tmp_path, ITEMS, Mean(breaks=breaks))
    assert layout.committed_shards(f"{tmp_path}/store") == set()
    assert not any(Path(tmp_path, "store/data").glob("*")) if Path(tmp_path, "store/data").exists() else True


def test_a_committed_shard_is_not_done_again(tmp_path):
    run, (first,) = process(tmp_path, ITEMS)
    processor = Mean()
    (shard,) = planned_shards(run)
    second, counts = process_shard(shard.shard_id, read_shard(shard), Engine(processor), run, fetch_from({}))
    assert second == first._replace(fresh=False)
    assert processor.batches == []
    assert not counts


def test_of_two_attempts_the_first_commit_counts(tmp_path):
    run = features_run(tmp_path)
    refs = [ImageRef(name, name, "/", "v") for name in ITEMS]
    (shard,) = write_plan(run, "loose-0", refs, 100)
    late = {}

    def overtaken(window):
        if not late:
            late["report"] = process_shard(shard.shard_id, refs, Engine(Mean()), run, fetch_from(ITEMS))[0]
        return fetch_from(ITEMS)(window)

    report, _ = process_shard(shard.shard_id, refs, Engine(Mean()), run, overtaken)
    publish(run)
    assert (report.rows, late["report"].rows) == (10, 10)
    assert len(list(Path(tmp_path, "store/data").iterdir())) == 2
    assert len(rows(Store.open(run.url))) == 10


def test_a_full_disk_is_one_sentence_and_commits_nothing(tmp_path, monkeypatch):
    run = features_run(tmp_path)
    Path(tmp_path, "store/data").write_text("a file where the folder should be")
    refs = [ImageRef(name, name, "/", "v") for name in ITEMS]
    with pytest.raises(SystemicError, match="cannot write to .*store.*expected a writable place"):
        process_shard("a" * 40, refs, Engine(Mean()), run, fetch_from(ITEMS))
    assert layout.committed_shards(run.url) == set()


def test_the_commit_names_its_files_with_their_hashes(tmp_path):
    run, _ = process(tmp_path, ITEMS)
    (shard,) = planned_shards(run)
    commit = json.loads(Path(run.url, "commits", f"{shard.shard_id}.json").read_text())
    from captionbeam.schemas.fingerprint import sha256_file

    for kind in ("data", "failures", "index"):
        assert sha256_file(f"{run.url}/{kind}/{commit[kind]}") == commit[f"{kind}_sha256"]
    assert (commit["rows"], commit["failed"], commit["run"]) == (10, 0, run.run_id)
    assert commit["counts"]["bytes_read"] == 10


def test_rows_stay_in_order_whatever_the_batch_size_and_however_many_run_at_once(tmp_path):
    def dawdle(ids):
        time.sleep(0.02 * ("00.jpg" in ids))

    for size, streams in product((1, 3, 64), (1, 4)):
        processor = Mean(batch_size=size, breaks=dawdle, streams=streams)
        run, _ = process(tmp_path / f"{size}-{streams}", ITEMS, processor)
        publish(run)
        (batch,) = Store.open(run.url).scan()
        assert batch.column("image_id").to_pylist() == sorted(ITEMS)
        assert np.array_equal(batch.column("grid").to_numpy_ndarray()[:, 0, 0, 0], np.arange(10))


def test_images_of_the_same_bytes_are_computed_once_and_have_a_row_each(tmp_path):
    items = {"a.jpg": b"\1", "b.jpg": b"\2", "c.jpg": b"\2", "d.jpg": b"\2", "e.jpg": b"\3"}
    processor = Mean(batch_size=2)
    run, (report,) = process(tmp_path, items, processor)
    publish(run)
    store = Store.open(run.url)
    assert processor.batches == [["a.jpg", "b.jpg"], ["e.jpg"]]
    assert (report.rows, report.failures) == (5, 0)
    assert rows(store) == {"a.jpg": 1, "b.jpg": 2, "c.jpg": 2, "d.jpg": 2, "e.jpg": 3}
    ((_, index),) = store.index()
    by_content = (
        index.group_by("content").aggregate([("image_id", "list")]).column("image_id_list").to_pylist()
    )
    assert sorted(by_content) == [["a.jpg"], ["b.jpg", "c.jpg", "d.jpg"], ["e.jpg"]]
    assert layout.load_commit(run.url, report.shard_id).counts["copies"] == 2


@given(
    st.lists(st.sampled_from([b"\1", b"\2", b"\3", b"bad", None]), min_size=1, max_size=20), st.integers(1, 5)
)
@settings(max_examples=25, deadline=None)
def test_whatever_the_copies_every_image_has_its_own_outcome(contents, batch_size):
    missing = ImageError("not_found", "fetch", "no such image")
    items = {f"{n:02d}.jpg": missing if item is None else item for n, item in enumerate(contents)}
    with TemporaryDirectory() as folder:
        run, _ = process(folder, items, Mean(batch_size))
        publish(run)
        store = Store.open(run.url)
        good = {name: float(item[0]) for name, item in items.items() if item not in (b"bad", missing)}
        assert rows(store) == good
        assert {row["image_id"] for row in store.failures().to_pylist()} == items.keys() - good.keys()


def test_captions_of_the_same_bytes_are_drawn_apart(tmp_path):
    """What a caption draws depends on the image's id."""
    run = replace(features_run(tmp_path), kind="captions")
    refs = [ImageRef(name, f"/images/{name}", "/images", "v") for name in ("a.jpg", "b.jpg")]
    processor = Mean()
    items = dict.fromkeys(("a.jpg", "b.jpg"), b"\1")
    process_shard("0" * 40, refs, Engine(processor), run, fetch_from(items))
    assert processor.batches == [["a.jpg", "b.jpg"]]


def test_copies_of_what_cannot_be_read_fail_like_it(tmp_path):
    items = {"a.jpg": b"bad", "b.jpg": b"bad", "c.jpg": b"\1"}
    run, (report,) = process(tmp_path, items)
    publish(run)
    store = Store.open(run.url)
    assert [(row["image_id"], row["code"]) for row in store.failures().to_pylist()] == [
        ("a.jpg", "decode"), ("b.jpg", "decode"),
    ]  # fmt: skip
    assert layout.load_commit(run.url, report.shard_id).counts["failed_decode"] == 2
