"""Snapshots after any history: runs that were killed, that overlapped, whose images changed, failed and went."""

from __future__ import annotations

import tempfile
from collections import defaultdict

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from captionbeam.pipelines.bulk.compare import compare_image, write_counts, write_gone
from captionbeam.pipelines.bulk.gates import Gates, check_captions, first_captions
from captionbeam.pipelines.bulk.plan import planned_shards, read_shard, write_plan
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.bulk.run import base_manifest, start_run
from captionbeam.pipelines.bulk.skip import _index_files, decide, read_base
from captionbeam.pipelines.workers.engine import Engine
from captionbeam.pipelines.workers.shards import process_shard
from captionbeam.schemas import Store
from captionbeam.schemas.errors import FingerprintError, HeldBack, ImageError, TooManyFailures
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.store import layout
from tests.builders.data.runs import Mean, features_run, fetch_from
from tests.builders.data.stores import Echo, as_item, commit_all, make_captions

OUTCOMES = {"ok": b"\x05", "bad": b"bad", "slow": ImageError("timeout", "fetch", "slow")}
SOURCES = {"/i": "abc", "/j": "de"}
# One run: what each image's version is and what comes of it, the shard size, how far it gets, and which sources it
# refreshes (none: it only adds).
RUN = st.tuples(
    st.dictionaries(
        st.sampled_from("abcde"), st.tuples(st.integers(1, 3), st.sampled_from(sorted(OUTCOMES)))
    ),
    st.integers(1, 3),
    st.sampled_from(["publish", "killed before publishing", "killed in the middle", "publish last"]),
    st.sampled_from([(), ("/i",), ("/j",), ("/i", "/j")]),
)


def listed(images, refreshed):
    """Of a history's images those that the run lists: all, or those of the sources that it refreshes."""
    named = "".join(SOURCES[source] for source in refreshed or SOURCES)
    return {name: image for name, image in images.items() if name in named}


def launch(folder, images, shard_size, refreshed=()):
    """Plan a run as the pipeline does: the listing against its base."""
    run = features_run(folder, operation="refresh" if refreshed else "add")
    base = defaultdict(list)
    for task in _index_files(run):
        for name, row in read_base(*task):
            base[name].append(row)
    refs = {
        name: ImageRef(name, f"/i/{name}", next(s for s in SOURCES if name in SOURCES[s]), f"v{version}")
        for name, (version, _) in sorted(images.items())
    }
    if refreshed:
        judged = {
            name: compare_image([refs[name]] if name in refs else [], base[name], refreshed)
            for name in sorted({*refs, *base})
        }
        todo = [verdict.todo for verdict in judged.values() if verdict.todo is not None]
        write_gone("000000", [(place, name) for name in judged for place in judged[name].gone], run)
    else:
        todo = [ref for ref in (decide([ref], base[name]) for name, ref in refs.items()) if ref is not None]
    write_plan(run, "loose-0", todo, shard_size)
    return run


def process(run, images, shards):
    fetch = fetch_from({name: OUTCOMES[outcome] for name, (_, outcome) in images.items()})
    engine = Engine(Mean(), 1)
    for shard in shards:
        process_shard(shard.shard_id, read_shard(shard), engine, run, fetch)


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


def rows_of(folder):
    """The images that the newest snapshot has, be it as a row or as a failure."""
    if layout.newest_snapshot(f"{folder}/store") is None:
        return set()
    store = Store.open(f"{folder}/store")
    return {*store.ids(), *store.failures().column("image_id").to_pylist()}


UNPUBLISHED = [
    ({"a": (1, "bad")}, 1, "publish", ()),
    ({"a": (2, "bad")}, 1, "killed before publishing", ()),
    ({"a": (1, "bad")}, 1, "killed before publishing", ()),
]


@settings(max_examples=60, deadline=None)
@given(st.lists(RUN, min_size=1, max_size=5))
@example([*UNPUBLISHED, ({"a": (1, "ok")}, 1, "publish", ())])
@example([*UNPUBLISHED, ({}, 1, "publish", ("/i",))])
def test_whatever_happened_each_image_is_there_once_and_the_totals_are_right(history):
    with tempfile.TemporaryDirectory() as folder:
        late = []
        for given, shard_size, end, refreshed in history:
            images = listed(given, refreshed)
            before = rows_of(folder)
            run = launch(folder, images, shard_size, refreshed)
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
                for source in SOURCES if not late else ():
                    there = {name for name in {*rows, *failures} if name in SOURCES[source]}
                    if source in refreshed:
                        assert there <= images.keys(), "an image that left the listing is there yet"
                    elif refreshed:
                        assert there >= before & set(SOURCES[source]), "another source's image went"
            elif end == "publish last":
                late.append(run)
        for run in late:
            publish(run)
            check(run.url)


def test_two_writers_with_other_options_never_mix(tmp_path):
    """Both saw an empty store; who publishes second is refused, and the first one's rows stay."""
    first, second = features_run(tmp_path), features_run(tmp_path, spec={"model": "another"})
    for run in (first, second):
        write_plan(run, "loose-0", [ImageRef("a", "/i/a", "/i", "v1")], 1)
        process(run, {"a": (1, "ok")}, planned_shards(run))
    publish(first)
    with pytest.raises(FingerprintError, match="was made with model mean, not another; expected the same"):
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
        publish(again, Gates(max_failures=0))


def refresh(folder, images, refreshed=("/i", "/j")):
    """A whole refresh; gives its run, published by nobody yet."""
    run = launch(folder, images, 2, refreshed)
    process(run, images, planned_shards(run))
    return run


def stored(folder, images):
    run = launch(folder, images, 2)
    process(run, images, planned_shards(run))
    publish(run)
    return run


ABC = {"a": (1, "ok"), "b": (1, "ok"), "c": (1, "bad")}


def test_gone_rows_and_failures_are_deleted_and_a_refresh_with_deletes_alone_is_a_snapshot(tmp_path):
    stored(tmp_path, ABC)
    snapshot = publish(refresh(tmp_path, {"a": (1, "ok")}))
    assert (snapshot.id, snapshot.operation, len(snapshot.manifests)) == (2, "refresh", 1)
    assert check(f"{tmp_path}/store") == ({"a": "v1"}, {})
    assert (snapshot.totals["rows"], snapshot.totals["failed"]) == (1, 0)
    assert check_old(tmp_path, 1) == {"a", "b"}
    assert publish(refresh(tmp_path, {"a": (1, "ok")})).id == 2


def check_old(folder, number):
    store = Store.open(f"{folder}/store", number)
    return {name for batch in store.scan(["image_id"]) for name in batch.column(0).to_pylist()}


def test_what_another_writer_did_anew_meanwhile_is_not_deleted(tmp_path):
    """Both saw a at v1; one lists no a, the other a at v2 and publishes first."""
    stored(tmp_path, ABC)
    without = refresh(tmp_path, {"b": (1, "ok"), "c": (1, "bad")})
    publish(refresh(tmp_path, {**ABC, "a": (2, "ok")}))
    publish(without)
    assert check(f"{tmp_path}/store") == ({"a": "v2", "b": "v1"}, {"c": "v1"})


def test_too_many_gone_are_held_back_and_published_by_a_flag_without_work(tmp_path):
    stored(tmp_path, ABC)
    run = refresh(tmp_path, {"d": (1, "ok")})
    write_counts({"gone": 3, "known": 3}, run)
    with pytest.raises(HeldBack, match=r"3 of 3 images are gone .* at most 0.1 to go \(--max-deletes\)"):
        publish(run, Gates(max_deletes=0.1))
    assert Store.open(run.url).snapshot_id == 1
    again = launch(tmp_path, {"d": (1, "ok")}, 2, ("/i", "/j"))
    assert planned_shards(again) == []
    publish(again, Gates(max_deletes=0.1, anyway=True))
    assert check(run.url) == ({"d": "v1"}, {})


def test_failures_that_jump_are_held_back(tmp_path):
    stored(tmp_path, ABC)
    images = {**ABC, "a": (2, "bad"), "b": (2, "bad"), "d": (1, "bad")}
    run = refresh(tmp_path, images)
    with pytest.raises(HeldBack, match=r"failures would rise from 33.3% .* to 100.0% \(3 more\)"):
        publish(run, Gates(compared=True))
    assert publish(run, Gates(compared=True, anyway=True)).totals["failed"] == 4


def test_another_fingerprint_does_all_again_and_keeps_no_old_row(tmp_path):
    stored(tmp_path, ABC)
    run = features_run(tmp_path, {"model": "other"}, operation="refresh")
    assert (run.redo, run.parent, run.base) == (True, 1, None)
    write_plan(run, "loose-0", [ImageRef("a", "/i/a", "/i", "v1"), ImageRef("d", "/j/d", "/j", "v1")], 1)
    process(run, {"a": (1, "ok"), "d": (1, "ok")}, planned_shards(run)[:1])
    killed = planned_shards(run)[0].shard_id
    again = features_run(tmp_path, {"model": "other"}, operation="refresh")
    assert [row["shard"] for row in base_manifest(again)] == [killed]
    write_plan(again, "loose-0", [ref for s in planned_shards(run)[1:] for ref in read_shard(s)], 1)
    process(again, {"a": (1, "ok"), "d": (1, "ok")}, planned_shards(again))
    snapshot = publish(again)
    assert (snapshot.id, snapshot.parent, snapshot.fingerprint) == (2, 1, again.fingerprint)
    assert check(run.url) == ({"a": "v1", "d": "v1"}, {})
    assert check_old(tmp_path, 1) == {"a", "b"}
    assert Store.open(run.url, 1).spec == {"model": "mean"}


def test_a_redo_does_not_drop_what_was_published_meanwhile(tmp_path):
    stored(tmp_path, ABC)
    redo = features_run(tmp_path, {"model": "other"}, operation="refresh")
    write_plan(redo, "loose-0", [ImageRef("a", "/i/a", "/i", "v1")], 1)
    process(redo, {"a": (1, "ok")}, planned_shards(redo))
    stored(tmp_path, {**ABC, "e": (1, "ok")})
    with pytest.raises(FingerprintError, match="somebody published snapshot 2 .* while all was done again"):
        publish(redo)
    assert "e" in check(redo.url)[0]


TEXTS = [f"a dog number {n} runs on the grass" for n in range(24)]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (
            ["dog"] * 24,
            "words a caption fell from 8.0 to 1.0, the share of equal captions rose from 0.0% to 95.8%",
        ),
        (
            [f"a {n} <unk> <unk> runs on the grass" for n in range(24)],
            "the share of <unk> rose from 0.0% to 25.0%",
        ),
    ],
)
def test_captions_that_collapse_are_held_back(tmp_path, after, said):
    before = make_captions(f"{tmp_path}/s", {f"{n}.jpg": text for n, text in enumerate(TEXTS)})
    other = make_captions(f"{tmp_path}/t", {f"{n}.jpg": text for n, text in enumerate(after)})
    new = first_captions(other.url, other.shards)
    assert sorted(new) == sorted(after)
    with pytest.raises(HeldBack) as raised:
        check_captions(first_captions(before.url, before.shards, before.dead), new)
    assert said in str(raised.value)
    check_captions(TEXTS, TEXTS[:20])
    check_captions(TEXTS, after[:19])


@pytest.mark.parametrize("keep_attention", [True])
def test_a_captions_store_is_held_to_its_parents_captions(tmp_path, keep_attention):
    store = make_captions(
        f"{tmp_path}/store", {f"{n}.jpg": text for n, text in enumerate(TEXTS)}, keep_attention, cells=9
    )
    field = arrow.captions_field(keep_attention)
    run = start_run(store.url, "captions", store.spec, store.fingerprint, field, operation="refresh")
    write_plan(run, "loose-0", [ImageRef(f"new-{n}", "/i", "/i", "v1") for n in range(30)], 10)
    poor = {"text": "a", "logprob": -1.0, "tokens": ["a"]} | (
        {"attention": [[1.0] * 9]} if keep_attention else {}
    )
    commit_all(run, Echo(field), lambda refs: [as_item([poor])] * len(refs))
    with pytest.raises(HeldBack, match=r"words a caption fell from 8.0 to 1.0, .* \(of 24 of each\)"):
        publish(run, Gates(compared=True))
    assert publish(run, Gates(compared=True, anyway=True)).totals["rows"] == 54


def test_an_image_that_went_back_to_its_old_version_is_that_version(tmp_path):
    """The killed run committed v2; the next one sees v1 again."""
    for version, ended in ((1, True), (2, False), (1, True)):
        images = {"a": (version, "ok")}
        run = launch(tmp_path, images, 1)
        process(run, images, planned_shards(run))
        if ended:
            publish(run)
    assert check(run.url) == ({"a": "v1"}, {})


def test_two_writers_that_miss_the_same_image_delete_it_once(tmp_path):
    stored(tmp_path, ABC)
    both = [refresh(tmp_path, {"b": (1, "ok"), "c": (1, "bad")}) for _ in range(2)]
    assert [publish(run).id for run in both] == [2, 2]
    assert check(f"{tmp_path}/store") == ({"b": "v1"}, {"c": "v1"})
    assert Store.open(f"{tmp_path}/store").totals["deleted"] == 1


def test_rows_that_go_for_other_reasons_are_held_back_too(tmp_path):
    stored(tmp_path, {"a": (1, "ok"), "b": (1, "ok")})
    with pytest.raises(HeldBack, match="the snapshot would have 1 rows, its parent has 2"):
        publish(refresh(tmp_path, {"a": (2, "bad"), "b": (1, "ok")}), Gates(max_deletes=0.4))
