"""Snapshots after any history: runs that were killed, that overlapped, whose images changed, failed and came back."""

from __future__ import annotations

import tempfile
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.plan import planned_shards, read_shard, write_plan
from pipelines.publish import publish
from pipelines.shards import process_shard
from pipelines.skip import _index_files, decide, read_base
from schemas import Store
from schemas.errors import FingerprintError, ImageError, TooManyFailures
from schemas.records import ImageRef
from tests.builders.runs import Mean, features_run, fetch_from

OUTCOMES = {"ok": b"\x05", "bad": b"bad", "slow": ImageError("timeout", "fetch", "slow")}
# One run: what each image's version is and what comes of it, the shard size, and how far it gets.
RUN = st.tuples(
    st.dictionaries(
        st.sampled_from("abcde"), st.tuples(st.integers(1, 3), st.sampled_from(sorted(OUTCOMES)))
    ),
    st.integers(1, 3),
    st.sampled_from(["publish", "killed before publishing", "killed in the middle", "publish last"]),
)


def launch(folder, images, shard_size):
    """Plan a run as the pipeline does: the listing minus its base."""
    run = features_run(folder)
    base = defaultdict(list)
    for task in _index_files(run):
        for name, row in read_base(*task):
            base[name].append(row)
    refs = [
        ImageRef(name, f"/i/{name}", "/i", f"v{version}") for name, (version, _) in sorted(images.items())
    ]
    todo = [ref for ref in (decide([ref], base[ref.image_id]) for ref in refs) if ref is not None]
    write_plan(run, "loose-0", todo, shard_size)
    return run


def process(run, images, shards):
    fetch = fetch_from({name: OUTCOMES[outcome] for name, (_, outcome) in images.items()})
    for shard in shards:
        process_shard(shard.shard_id, read_shard(shard), Mean(), run, fetch, threads=1)


def check(url):
    """Each image is there once, be it as a row or as a settled failure, and the totals are those of a scan."""
    store = Store.open(url)
    rows = [row for batch in store.scan(["image_id", "version"]) for row in batch.to_pylist()]
    failures = store.failures().to_pylist()
    ids, failed = [row["image_id"] for row in rows], [row["image_id"] for row in failures]
    assert len(ids) == len(set(ids)), "an image has two rows"
    assert len(failed) == len(set(failed)), "an image has two failures"
    transient = {row["image_id"] for row in failures if row["code"] == "timeout"}
    assert set(ids) & set(failed) <= transient, "an image that failed for good has a row"
    assert (store.totals["rows"], store.totals["failed"]) == (len(rows), len(failures))
    assert sorted(store.ids()) == sorted(ids)
    return {row["image_id"]: row["version"] for row in rows}, {
        row["image_id"]: row["version"] for row in failures
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(RUN, min_size=1, max_size=5))
def test_whatever_happened_each_image_is_there_once_and_the_totals_are_right(history):
    with tempfile.TemporaryDirectory() as folder:
        late = []
        for images, shard_size, end in history:
            run = launch(folder, images, shard_size)
            shards = planned_shards(run)
            if end == "killed in the middle":
                process(run, images, shards[: len(shards) // 2])
                continue
            process(run, images, shards)
            if end == "publish":
                publish(run)
                rows, failures = check(run.url)
                for name, (version, outcome) in images.items():
                    if outcome == "ok" and not late:
                        assert rows.get(name) == f"v{version}" or failures.get(name) == f"v{version}"
            elif end == "publish last":
                late.append(run)
        for run in late:
            publish(run)
            check(run.url)


def test_an_image_that_went_back_to_its_old_version_is_that_version(tmp_path):
    """The killed run committed v2; the next one sees v1 again."""
    for version, ended in ((1, True), (2, False), (1, True)):
        images = {"a": (version, "ok")}
        run = launch(tmp_path, images, 1)
        process(run, images, planned_shards(run))
        if ended:
            publish(run)
    assert check(run.url) == ({"a": "v1"}, {})


def test_two_writers_with_other_options_never_mix(tmp_path):
    """Both saw an empty store; who publishes second is refused, and the first one's rows stay."""
    first, second = features_run(tmp_path), features_run(tmp_path, spec={"model": "another"})
    for run in (first, second):
        write_plan(run, "loose-0", [ImageRef("a", "/i/a", "/i", "v1")], 1)
        process(run, {"a": (1, "ok")}, planned_shards(run))
    publish(first)
    with pytest.raises(FingerprintError, match="was made with fingerprint"):
        publish(second)
    assert check(first.url) == ({"a": "v1"}, {})
    assert Store.open(first.url).fingerprint == first.fingerprint


def test_a_run_of_another_format_adopts_nothing(tmp_path):
    killed = features_run(tmp_path)
    write_plan(killed, "loose-0", [ImageRef("a", "/i/a", "/i", "v1")], 1)
    process(killed, {"a": (1, "ok")}, planned_shards(killed))
    run = features_run(tmp_path, file_format="hdf5")
    assert not _index_files(run)


def test_the_whole_snapshot_is_held_to_max_failures_also_when_nothing_is_new(tmp_path):
    images = {"a": (1, "ok"), "b": (1, "bad")}
    run = launch(tmp_path, images, 1)
    process(run, images, planned_shards(run))
    publish(run)
    again = launch(tmp_path, images, 1)
    assert planned_shards(again) == []
    with pytest.raises(TooManyFailures, match="1 of 2 images failed"):
        publish(again, max_failures=0)
