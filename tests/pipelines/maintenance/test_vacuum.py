"""``store vacuum``: what goes, what stays, and that it may stop anywhere."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fsspec.core import url_to_fs

from captionbeam.jobs import cli
from captionbeam.pipelines.bulk.plan import planned_shards
from captionbeam.pipelines.maintenance import vacuum as vacuuming
from captionbeam.pipelines.maintenance.history import roll_back
from captionbeam.pipelines.maintenance.vacuum import find_garbage, vacuum
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout, tags
from tests.builders.data.history import (
    advance,
    change_columns,
    finish,
    kept_columns,
    outcomes,
    plan,
    process,
    start,
    write_columns,
)

LATER = lambda: time.time() + 48 * 3600  # noqa: E731 - a clock


@pytest.fixture
def url(tmp_path):
    """Four snapshots over images that change all the time, and a rollback to the third."""
    place = str(tmp_path / "store")
    for version in "123":
        advance(place, dict.fromkeys("abcdef", version), fails={"f": "timeout"})
    advance(place, {"new": "1"})
    roll_back(place, layout.load_snapshot(place, 3))
    return place


def everything(url):
    """Each path below the store."""
    fs, root = url_to_fs(url)
    return {path[len(root) :].strip("/") for path in fs.find(root)}


def gone(url, *arguments, **options):
    before = everything(url)
    vacuum(url, *arguments, **options)
    return before - everything(url)


def test_old_snapshots_and_what_only_they_name_go(url):
    newest = outcomes(Store.open(url))
    removed = gone(url, 1, 24, clock=LATER)
    assert layout.snapshot_ids(url) == [5]
    assert outcomes(Store.open(url)) == newest
    assert verify(url).problems == []
    assert {name.split("/")[0] for name in removed} == {"snapshots", "commits", "data", "index", "failures",
                                                        "plans", "manifests"}  # fmt: skip
    assert gone(url, 1, 24, clock=LATER) == set()


def test_what_is_kept_or_tagged_stays_as_it_was(url):
    tags.set_tag(url, "good", 1)
    before = {number: outcomes(Store.open(url, number)) for number in (1, 4, 5)}
    gone(url, 2, 24, clock=LATER)
    assert layout.snapshot_ids(url) == [1, 4, 5]
    assert {number: outcomes(Store.open(url, number)) for number in (1, 4, 5)} == before
    assert verify(url).problems == []


def test_what_a_rollback_left_out_never_comes_back(url):
    """Its commit goes with the last snapshot that named it, however young: else the next run would adopt it."""
    gone(url, 1, 24)
    assert layout.snapshot_ids(url) == [5]
    advance(url, {"other": "1"})
    assert "new" not in Store.open(url).ids()
    assert verify(url).problems == []


def killed(url, images):
    """A run that committed and was killed before it published."""
    run = start(url)
    plan(run, images)
    process(run)
    return run


def test_commits_that_no_snapshot_named_are_adopted_in_the_grace_period_and_go_after_it(url):
    run = killed(url, {"late": "1"})
    gone(url, 1, 24)
    assert {shard.shard_id for shard in planned_shards(run)} <= layout.committed_shards(url)
    advance(url, {"other": "1"})
    assert "late" in Store.open(url).ids()
    lost = killed(url, {"later": "1"})
    removed = gone(url, 1, 24, clock=LATER)
    assert {f"commits/{shard.shard_id}.json" for shard in planned_shards(lost)} <= removed
    assert f"plans/{lost.run_id}/run.json" in removed
    advance(url, {"another": "1"})
    assert "later" not in Store.open(url).ids()
    assert verify(url).problems == []


def test_a_run_that_is_at_work_can_finish(url):
    """Its base, though beyond --keep, what it adopted, and a rolled-back shard that it planned again."""
    killed(url, {"left": "1"})
    run = start(url)
    plan(run, {"new": "1", "left": "1", "last": "1"})
    advance(url, {"x": "1"})
    advance(url, {"y": "1"})
    gone(url, 1, 24)
    process(run)
    gone(url, 1, 24)
    assert 5 in layout.snapshot_ids(url)
    finish(run)
    gone(url, 1, 24)
    assert {"new", "left", "last", "x", "y"} <= set(Store.open(url).ids())
    assert verify(url).problems == []


def test_columns_files_go_with_the_last_snapshot_that_shows_them(tmp_path):
    """But for the first one: a run that plans the same shard again takes what its commit names."""
    url = str(tmp_path / "store")
    advance(url, {"a": "1", "b": "1"}, columns={"a": {"price": 1}})
    for price in (2, 3, 4):
        change_columns(url, {"a": {"price": price}})
    tags.set_tag(url, "good", 3)
    by_age = sorted(Path(url, "columns").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    removed = gone(url, 1, 24, clock=LATER)
    assert {name for name in removed if name.startswith("columns/")} == {f"columns/{by_age[1].name}"}
    assert [kept_columns(Store.open(url, number))["a"] for number in (3, 4)] == [{"price": 3}, {"price": 4}]
    assert verify(url).problems == []


def test_columns_that_a_run_at_work_has_written_stay_for_it(tmp_path):
    url = str(tmp_path / "store")
    advance(url, {"a": "1", "b": "1"}, columns={"a": {"price": 1}})
    run = start(url, keeps=True)
    plan(run, {"a": "1", "b": "1"})
    (row,) = write_columns(url, {"a": {"price": 2}})
    os.utime(f"{url}/columns/{row['columns']}", (0, 0))
    record = {"shard": row["shard"], "columns": row["columns"]}
    files.write_atomic(f"{run.folder}/columns/{row['shard']}.json", files.json_bytes(record))
    assert gone(url, 1, 24) == set()
    assert f"columns/{row['columns']}" in gone(url, 1, 24, clock=LATER)
    assert verify(url).problems == []


def test_what_killed_writers_left_goes_after_the_grace_period(tmp_path):
    url = advance(str(tmp_path / "store"), {"a": "1"}).url
    left = ["columns/half.parquet", "columns/.x.parquet.ab.tmp",
            "data/half.parquet", "snapshots/.00000002.json.ab.tmp", "commits/.x.json.cd.tmp", "tags/.t.json.ef.tmp",
            "models/old.safetensors", "models/bundle/config.json", "plans/dead/run.json"]  # fmt: skip
    for name in left:
        files.write_atomic(f"{url}/{name}", b"{}")
        os.utime(f"{url}/{name}", (0, 0))
    assert gone(url, 1, 24) == set(left)
    assert verify(url).problems == []


def test_weights_that_a_snapshot_names_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.builders.data.history.SPEC", {"weights_sha256": "ab" * 32})
    url = advance(str(tmp_path / "store"), {"a": "1"}).url
    for name in ("ab" * 32, "cd" * 32):
        files.write_atomic(f"{url}/models/{name}.safetensors", b"")
    assert gone(url, 1, 24, clock=LATER) == {f"models/{'cd' * 32}.safetensors"}


@pytest.mark.parametrize("survives", range(0, 40, 8))
def test_stopped_anywhere_it_leaves_a_store_that_is_whole_and_goes_on(tmp_path, monkeypatch, survives):
    url = str(tmp_path / "store")
    for version in "123":
        advance(url, dict.fromkeys("abcdef", version), fails={"f": "timeout"})
    advance(url, {"new": "1"})
    roll_back(url, layout.load_snapshot(url, 3))
    newest, removals, remove = outcomes(Store.open(url)), [], vacuuming.remove

    def stopping(place, names):
        for name in names:
            if len(removals) == survives:
                raise KeyboardInterrupt
            removals.append(name)
            remove(place, [name])

    monkeypatch.setattr(vacuuming, "remove", stopping)
    try:
        vacuum(url, 1, 24, clock=LATER)
    except KeyboardInterrupt:
        assert verify(url).problems == []
        for number in layout.snapshot_ids(url):
            outcomes(Store.open(url, number))
    monkeypatch.setattr(vacuuming, "remove", remove)
    advance(url, {"other": "1"})
    assert outcomes(Store.open(url))[0].keys() == newest[0].keys() | {"other"}
    vacuum(url, 1, 24, clock=LATER)
    assert verify(url).problems == []
    assert outcomes(Store.open(url))[0].keys() == newest[0].keys() | {"other"}


def test_a_dry_run_names_what_would_go_and_removes_nothing(url, capsys):
    before = everything(url)
    assert cli.main(["store", "vacuum", url, "--keep", "1", "--grace", "0", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert everything(url) == before
    named = {line for line in said.splitlines() if line.split("/")[0] in ("data", "snapshots", "commits")}
    assert "snapshots/00000001.json" in named
    assert find_garbage(url, 1, 0).entries()
    assert cli.main(["store", "vacuum", url, "--keep", "1", "--grace", "0"]) == 0
    assert named <= before - everything(url)
    if "://" not in url:
        assert not list(Path(url).glob("*/.*"))
