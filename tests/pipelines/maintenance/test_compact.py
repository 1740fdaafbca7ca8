"""``store compact``: the same rows before and after, in fewer files."""

from __future__ import annotations

import tempfile
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.jobs import cli
from captionbeam.pipelines.maintenance.compact import compact
from captionbeam.pipelines.maintenance.purge import purge
from captionbeam.pipelines.maintenance.vacuum import vacuum
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from captionbeam.schemas.store import layout
from tests.builders.data.history import (
    CAPTIONS,
    GRID,
    advance,
    change_columns,
    finish,
    kept_columns,
    outcomes,
    plan,
    process,
    start,
)
from tests.builders.data.stores import make_answers

IMAGES = dict.fromkeys("abcdefghij", "1")


def history(url, **options):
    """Small shards, superseded rows, failures that stay and ones that went away."""
    advance(url, IMAGES, fails={"a": "timeout", "b": "decode"}, **options)
    advance(url, {**IMAGES, "c": "2", "d": "2", "e": "2"}, fails={"e": "decode"}, **options)
    return advance(url, {**IMAGES, "c": "3", "new": "1"}, **options).url


@pytest.mark.parametrize(("field", "file_format"), [(GRID, "parquet"), (GRID, "hdf5"), (CAPTIONS, "parquet")])
def test_the_same_rows_in_one_shard(field, file_format):
    url = history(f"memory://{uuid.uuid4().hex}/store", field=field, file_format=file_format)
    before = outcomes(Store.open(url))
    snapshot, rewritten = compact(url, dead_share=0.2, small=256)
    assert (snapshot.id, snapshot.operation, snapshot.totals["shards"], rewritten) == (4, "compact", 1, 5)
    assert outcomes(Store.open(url)) == before
    assert Store.open(url).dead == {}
    assert snapshot.totals["deleted"] == 0
    assert verify(url).problems == []
    assert compact(url, dead_share=0.2, small=256) == (snapshot, 0)


def test_answers_to_several_prompts_are_kept_by_compacting_and_purging(tmp_path):
    schema = {"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}}}
    rows = {name: {"a": [name], "b": ['{"kind": "cat"}']} for name in "pqrst"}
    prompts = {"a": {"text": "?"}, "b": {"text": "?", "schema": schema}}
    store = make_answers(f"{tmp_path}/store", rows, prompts, shard_size=2)
    before = {row["image_id"]: row for batch in store.scan() for row in batch.to_pylist()}
    assert before["p"]["b"][0]["value"] == {"kind": "cat"}
    snapshot, rewritten = compact(store.url, dead_share=0.2, small=256)
    assert (snapshot.totals["shards"], rewritten, snapshot.column) == (1, 3, "a")
    purge(store.url, ["q"])
    store = Store.open(store.url)
    assert store.columns == ("a", "b")
    del before["q"]
    assert {row["image_id"]: row for batch in store.scan() for row in batch.to_pylist()} == before
    assert verify(store.url).problems == []


@pytest.mark.parametrize("file_format", ["parquet", "hdf5"])
def test_kept_columns_stay_beside_their_rows_and_failures(tmp_path, file_format):
    """Of shards whose files have other types, of one without a file, and of one whose columns changed since."""
    url = str(tmp_path / "store")
    prices = {name: {"price": number, "seller": name.upper()} for number, name in enumerate(IMAGES)}
    advance(url, IMAGES, fails={"a": "decode"}, columns=prices, file_format=file_format)
    advance(url, {**IMAGES, "c": "2", "k": "1"}, columns={"c": {"price": 2.5}}, file_format=file_format)
    advance(url, {"l": "1"}, file_format=file_format)
    store = change_columns(url, {"b": {"price": 100, "tags": ["new", "red"]}})
    before = kept_columns(store)
    assert {name: before[name] for name in "abckl"} == {
        "a": {"price": 0.0, "seller": "A"},
        "b": {"price": 100.0, "tags": ["new", "red"]},
        "c": {"price": 2.5},
        "k": {},
        "l": {},
    }
    snapshot, rewritten = compact(url, dead_share=0.2, small=256)
    assert (snapshot.totals["shards"], rewritten, snapshot.kept) == (1, 5, store.snapshot.kept)
    assert kept_columns(Store.open(url)) == before
    assert kept_columns(Store.open(url, 4)) == before
    assert verify(url).problems == []


def test_columns_that_change_meanwhile_are_the_ones_that_are_kept(tmp_path, monkeypatch):
    url = str(tmp_path / "store")
    advance(url, IMAGES, columns={"a": {"price": 1}})
    create, waiting = layout.create_snapshot, [{"a": {"price": 2}}]

    def first_the_other(place, snapshot):
        if waiting:
            change_columns(url, waiting.pop())
        return create(place, snapshot)

    monkeypatch.setattr(layout, "create_snapshot", first_the_other)
    compact(url, 0.2, 256)
    assert [one.operation for one in layout.load_snapshots(url)] == ["add", "refresh", "compact"]
    assert kept_columns(Store.open(url))["a"] == {"price": 2}
    assert verify(url).problems == []


CHANGES = st.dictionaries(
    st.sampled_from("abcdefgh"), st.tuples(st.integers(1, 3), st.sampled_from(["", "timeout", "decode"]))
)


@settings(max_examples=12, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 6))
def test_whatever_the_history_a_reader_sees_no_difference_and_runs_go_on(history, share, small):
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/store"
        advance(url, {"first": "1"})
        for images in history:
            fails = {name: code for name, (_, code) in images.items() if code}
            advance(
                url, {name: str(version) for name, (version, _) in images.items()}, fails=fails, shard_size=2
            )
        before = outcomes(Store.open(url))
        compact(url, share, small)
        assert outcomes(Store.open(url)) == before
        assert verify(url).problems == []
        vacuum(url, 1, 0)
        assert outcomes(Store.open(url)) == before
        advance(url, {"a": "9", "b": "9"})
        rows, failures = outcomes(Store.open(url))
        assert {name: rows[name][0] for name in "ab"} == {"a": "9", "b": "9"}
        assert {**before[0], "a": rows["a"], "b": rows["b"]} == rows
        assert failures == {name: code for name, code in before[1].items() if name not in "ab"}
        assert verify(url).problems == []


def test_who_publishes_meanwhile_loses_nothing(tmp_path, monkeypatch):
    url = history(str(tmp_path / "store"))
    run = start(url)
    plan(run, {"late": "1"})
    process(run)
    create, waiting = layout.create_snapshot, [run]

    def first_the_other(place, snapshot):
        if waiting:
            finish(waiting.pop())
        return create(place, snapshot)

    monkeypatch.setattr(layout, "create_snapshot", first_the_other)
    compact(url, 0.2, 256)
    assert [one.operation for one in layout.load_snapshots(url)][-2:] == ["add", "compact"]
    assert outcomes(Store.open(url, 5)) == outcomes(Store.open(url, 4))
    assert "late" in Store.open(url).ids()
    assert verify(url).problems == []


def test_the_command_says_what_it_did(tmp_path, capsys):
    url = history(str(tmp_path / "store"))
    assert cli.main(["store", "compact", url]) == 0
    assert "published snapshot 4" in capsys.readouterr().out
    assert cli.main(["store", "compact", url]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_what_a_run_at_work_changed_replaces_rows_that_were_moved_meanwhile(tmp_path):
    """It knows their old places; what they are of is told by image and version."""
    url = history(str(tmp_path / "store"))
    run = start(url)
    plan(run, {"f": "2", "late": "1"})
    process(run)
    compact(url, 0.2, 256)
    finish(run)
    rows, _ = outcomes(Store.open(url))
    assert (rows["f"][0], rows["late"][0]) == ("2", "1")
    assert verify(url).problems == []


def test_only_shards_with_more_dead_rows_than_that_are_rewritten(tmp_path):
    url = history(str(tmp_path / "store"))
    before, shards = outcomes(Store.open(url)), set(Store.open(url).manifest.column("shard").to_pylist())
    dead = {shard: len(dead.rows | dead.failed) for shard, dead in Store.open(url).dead.items()}
    compact(url, dead_share=0.3, small=0)
    kept = shards & set(Store.open(url).manifest.column("shard").to_pylist())
    heavy = {
        row["shard"]
        for row in Store.open(url, 3).manifest.to_pylist()
        if dead.get(row["shard"], 0) > 0.3 * (row["rows"] + row["failed"])
    }
    assert heavy
    assert kept == shards - heavy
    assert outcomes(Store.open(url)) == before
    assert verify(url).problems == []


def test_what_a_killed_run_changed_is_adopted_after_compacting(tmp_path):
    url = history(str(tmp_path / "store"))
    killed = start(url)
    plan(killed, {"f": "2", "g": "2"})
    process(killed)
    compact(url, 0.2, 256)
    run = start(url)
    assert plan(run, {"f": "2", "g": "2", "late": "1"})[0].image_id == "late"
    process(run)
    finish(run)
    rows, _ = outcomes(Store.open(url))
    assert {name: rows[name][0] for name in ("f", "g", "late")} == {"f": "2", "g": "2", "late": "1"}
    assert verify(url).problems == []


def test_another_writers_row_of_the_same_version_stays_the_only_one(tmp_path):
    url = history(str(tmp_path / "store"))
    slow = start(url)
    plan(slow, {"f": "2"})
    process(slow)
    advance(url, {"f": "2"}, shard_size=1)
    compact(url, 0.0, 256)
    finish(slow)
    assert outcomes(Store.open(url))[0]["f"][0] == "2"
    assert verify(url).problems == []
