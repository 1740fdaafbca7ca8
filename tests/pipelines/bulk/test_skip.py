"""SkipDone and PublishSnapshot: the listing minus the base, and the base plus this run's commits."""

from __future__ import annotations

import apache_beam as beam
import pytest

from captionbeam.pipelines.bulk.gates import Gates
from captionbeam.pipelines.bulk.plan import PlanShards, planned_shards
from captionbeam.pipelines.bulk.publish import PublishSnapshot, publish
from captionbeam.pipelines.bulk.skip import BaseRow, SkipDone, decide
from captionbeam.pipelines.runners.runner import run_pipeline
from captionbeam.pipelines.workers.transforms import ProcessShards
from captionbeam.schemas import Store
from captionbeam.schemas.errors import (
    FingerprintError,
    ImageError,
    RequestError,
    SystemicError,
    TooManyFailures,
)
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.store import layout
from tests.builders.data.runs import Mean, features_run, fetch_from
from tests.builders.data.stores import commit_all, make_features

REF = ImageRef("a.jpg", "/images/a.jpg", "/images", "2")


def ref(name, version="v1"):
    return ImageRef(name, f"/images/{name}", "/images", version)


@pytest.mark.parametrize(
    ("base", "retry", "expected"),
    [
        ([], False, REF),
        ([BaseRow("2", False, None, "s/0")], False, None),
        ([BaseRow("1", False, None, "s/0")], False, REF._replace(replaces="s/0")),
        ([BaseRow("2", True, "decode", "s/f0")], False, None),
        ([BaseRow("2", True, "decode", "s/f0")], True, REF._replace(replaces="s/f0")),
        ([BaseRow("2", True, "timeout", "s/f0")], False, REF._replace(replaces="s/f0")),
        ([BaseRow("1", True, "decode", "s/f0")], False, REF._replace(replaces="s/f0")),
        (
            [BaseRow("1", False, None, "s/0"), BaseRow("2", True, "timeout", "t/f0")],
            False,
            REF._replace(replaces="s/0,t/f0"),
        ),
    ],
)
def test_an_image_is_done_by_its_version(base, retry, expected):
    assert decide([REF], base, retry) == expected


def test_without_a_version_done_means_done():
    unversioned = REF._replace(version=None)
    assert decide([unversioned], [BaseRow("1", False, None, "s/0")]) is None
    assert decide([unversioned], []) == unversioned


def test_two_images_with_one_id_are_both_named():
    other = REF._replace(uri="/more/a.jpg", source="/more")
    with pytest.raises(
        RequestError, match="two images have the id 'a.jpg': /images/a.jpg .* and /more/a.jpg"
    ):
        decide([REF, other], [])


PROCESSED: list[str] = []


class Counting(Mean):
    def run(self, batch, image_ids):
        PROCESSED.extend(image_ids)
        return super().run(batch, image_ids)


class CountingJob:
    def load(self, threads, processes=1):
        return Counting()


def encode(folder, refs, items, retry=False, shard_size=4, max_failures=None):
    PROCESSED.clear()
    run = features_run(folder)

    def build(pipeline):
        todo, _ = pipeline | beam.Create(refs).with_output_types(ImageRef) | SkipDone(run, retry)
        reports = todo | PlanShards(run, shard_size) | ProcessShards(run, CountingJob(), fetch_from(items))
        return reports | PublishSnapshot(run, Gates(max_failures))

    run_pipeline([], build)
    return run, Store.open(run.url)


ITEMS = {f"{n}.jpg": bytes([n]) for n in range(1, 10)}
REFS = [ref(name) for name in ITEMS]


def test_a_changed_image_is_done_again_and_its_old_row_is_not_seen(tmp_path):
    encode(tmp_path, REFS, ITEMS)
    changed = [ref("3.jpg", "v2"), *(r for r in REFS if r.image_id != "3.jpg")]
    _, store = encode(tmp_path, changed, {**ITEMS, "3.jpg": bytes([33])})
    assert PROCESSED == ["3.jpg"]
    found = [row for batch in store.scan(["image_id", "version"]) for row in batch.to_pylist()]
    assert sorted(row["image_id"] for row in found) == sorted(ITEMS)
    assert [row["version"] for row in found if row["image_id"] == "3.jpg"] == ["v2"]
    assert store.totals["rows"] == 9


def test_transient_failures_are_done_again_and_permanent_ones_on_a_flag(tmp_path):
    items = {**ITEMS, "1.jpg": ImageError("timeout", "fetch", "slow"), "2.jpg": b"bad"}
    _, store = encode(tmp_path, REFS, items)
    assert store.totals["failed"] == 2
    _, store = encode(tmp_path, REFS, ITEMS)
    assert PROCESSED == ["1.jpg"]
    assert [row["image_id"] for row in store.failures().to_pylist()] == ["2.jpg"]
    _, store = encode(tmp_path, REFS, ITEMS, retry=True)
    assert PROCESSED == ["2.jpg"]
    assert store.failures().num_rows == 0
    assert sorted(store.ids()) == sorted(ITEMS)
    assert (store.totals["rows"], store.totals["failed"]) == (9, 0)


def test_the_next_run_publishes_what_a_killed_one_committed(tmp_path):
    killed = features_run(tmp_path)
    from captionbeam.pipelines.bulk.plan import write_plan

    write_plan(killed, "loose-0", REFS[:6], 2)
    commit_all(killed, Mean(), fetch_from(ITEMS))
    _, store = encode(tmp_path, REFS, ITEMS)
    assert sorted(PROCESSED) == sorted(ITEMS)[6:]
    assert sorted(store.ids()) == sorted(ITEMS)
    assert layout.load_snapshot(store.url, 1).totals["rows"] == 9


def test_two_runs_from_one_base_lose_nothing_and_double_nothing(tmp_path):
    """Both froze an empty base; their shards overlap without being equal."""
    from captionbeam.pipelines.bulk.plan import write_plan

    first, second = features_run(tmp_path), features_run(tmp_path)
    write_plan(first, "loose-0", REFS[:6], 3)
    write_plan(second, "loose-0", REFS[2:], 4)
    for run in (first, second):
        commit_all(run, Mean(), fetch_from(ITEMS))
    publish(first)
    publish(second)
    store = Store.open(first.url)
    assert store.snapshot_id == 2
    assert sorted(store.ids()) == sorted(ITEMS)
    assert sorted(n for b in store.scan(["image_id"]) for n in b.column(0).to_pylist()) == sorted(ITEMS)
    assert store.totals["rows"] == 9


def test_a_planned_shard_without_commit_is_never_published(tmp_path):
    from captionbeam.pipelines.bulk.plan import write_plan

    run = features_run(tmp_path)
    write_plan(run, "loose-0", REFS, 3)
    with pytest.raises(SystemicError, match="3 planned shards have no commit"):
        publish(run)
    assert layout.newest_snapshot(run.url) is None
    assert planned_shards(run)


def test_too_many_failures_publish_nothing(tmp_path):
    items = {**ITEMS, "1.jpg": b"bad", "2.jpg": b"bad"}
    with pytest.raises(
        TooManyFailures,
        match=r"2 of 9 images failed \(2 decode, as .1.jpg.\); expected at most 0.1 \(--max-failures\)",
    ):
        encode(tmp_path, REFS, items, max_failures=0.1)
    assert layout.newest_snapshot(f"{tmp_path}/store") is None
    _, store = encode(tmp_path, REFS, items, max_failures=2)
    assert store.totals["failed"] == 2
    assert PROCESSED == []


def test_another_fingerprint_is_refused_with_what_differs(tmp_path):
    encode(tmp_path, REFS, ITEMS)
    with pytest.raises(FingerprintError, match="was made with model mean, not median; expected the same"):
        features_run(tmp_path, spec={"model": "median"})


def test_another_sources_image_of_the_same_id_is_not_replaced_in_silence(tmp_path):
    make_features(f"{tmp_path}/store", ["a.jpg"], (2, 2, 1), spec={"model": "mean"})
    other = ref("a.jpg", "v2")._replace(uri="/more/a.jpg", source="/more")

    def build(pipeline):
        _ = pipeline | beam.Create([other]).with_output_types(ImageRef) | SkipDone(features_run(tmp_path))

    with pytest.raises(RequestError, match="image 'a.jpg' of /more would replace another one of "):
        run_pipeline([], build)


def test_a_second_run_does_nothing_and_publishes_nothing(tmp_path):
    _, first = encode(tmp_path, REFS, ITEMS)
    assert sorted(PROCESSED) == sorted(ITEMS)
    _, second = encode(tmp_path, REFS, ITEMS)
    assert PROCESSED == []
    assert (first.snapshot_id, second.snapshot_id) == (1, 1)


def test_a_changed_image_that_fails_for_good_has_no_row_any_more(tmp_path):
    encode(tmp_path, REFS, ITEMS)
    changed = [ref("3.jpg", "v2"), *(r for r in REFS if r.image_id != "3.jpg")]
    _, store = encode(tmp_path, changed, {**ITEMS, "3.jpg": ImageError("timeout", "fetch", "slow")})
    assert "3.jpg" in store.ids()
    _, store = encode(tmp_path, changed, {**ITEMS, "3.jpg": b"bad"})
    assert "3.jpg" not in store.ids()
    assert [row["image_id"] for row in store.failures().to_pylist()] == ["3.jpg"]
    assert (store.totals["rows"], store.totals["failed"]) == (8, 1)
