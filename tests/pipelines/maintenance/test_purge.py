"""``store purge``: some images are nowhere any more, all others are as they were."""

from __future__ import annotations

import contextlib
import tempfile
import uuid

import pyarrow.parquet as pq
import pytest
from fsspec.core import url_to_fs
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.jobs import cli
from captionbeam.pipelines.maintenance import purge as purging
from captionbeam.pipelines.maintenance.history import roll_back
from captionbeam.pipelines.maintenance.purge import purge, purge_tokens
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.pipelines.tokens.inputs import list_inputs
from captionbeam.pipelines.tokens.tokenize import TokenizeOptions, tokenize
from captionbeam.schemas import Store
from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.formats.datafile import open_data
from captionbeam.schemas.formats.tokens import TokenTable
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout, tags
from tests.builders.data.captions import coco, write_json
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
    write_columns,
)

IMAGES = {f"{name}-of-mine.jpg": "1" for name in "abcdefgh"}
GONE = {"a-of-mine.jpg", "c-of-mine.jpg", "h-of-mine.jpg", "never-there.jpg"}


def history(url, **options):
    """Of the purged images one failed, one was superseded, one alone in its shard, one is unpublished yet."""
    advance(url, IMAGES, fails={"a-of-mine.jpg": "timeout", "b-of-mine.jpg": "decode"}, **options)
    advance(url, {**IMAGES, "c-of-mine.jpg": "2", "d-of-mine.jpg": "2"}, **options)
    advance(url, {**IMAGES, "c-of-mine.jpg": "3"}, fails={"c-of-mine.jpg": "decode"}, **options)
    roll_back(url, layout.load_snapshot(url, 2))
    tags.set_tag(url, "old", 1)
    return url


def everywhere(url):
    """Each id that any file of the store holds, readable or not by itself."""
    fs, root = url_to_fs(url)
    found = set()
    for path in fs.find(root):
        where = fs.unstrip_protocol(path)
        if path.endswith(".h5") or "/data/" in path:
            data = open_data(where)
            for group in range(len(data.group_rows)):
                found |= set(data.read(group, ["image_id"]).column(0).to_pylist())
            data.close()
        elif path.endswith(".parquet"):
            with fs.open(path) as stream:
                table = pq.read_table(stream)
            found |= set(table.column("image_id").to_pylist()) if "image_id" in table.column_names else set()
        else:
            found |= {name for name in IMAGES if name.encode() in fs.cat_file(path)}
    return found


def seen(url):
    return {number: outcomes(Store.open(url, number)) for number in layout.snapshot_ids(url)}


def without(outcome, ids):
    return tuple({name: value for name, value in part.items() if name not in ids} for part in outcome)


@pytest.mark.parametrize(("field", "file_format"), [(GRID, "hdf5"), (CAPTIONS, "parquet")])
def test_the_images_are_nowhere_and_all_other_rows_are_as_they_were(field, file_format):
    url = history(f"memory://{uuid.uuid4().hex}/store", field=field, file_format=file_format)
    before = seen(url)
    assert everywhere(url) >= GONE - {"never-there.jpg"}
    done = purge(url, GONE)
    assert done.ids == GONE - {"never-there.jpg"}
    assert everywhere(url).isdisjoint(GONE)
    after = seen(url)
    assert {number: after[number] for number in before} == {
        number: without(outcome, GONE) for number, outcome in before.items()
    }
    assert after[5] == without(before[4], GONE)
    assert Store.open(url).snapshot.operation == "purge"
    assert Store.open(f"{url}@old").snapshot_id == 1
    assert verify(url).problems == []


def test_the_values_of_their_kept_columns_are_in_no_file_and_those_of_others_are_as_they_were(tmp_path):
    """Neither in columns files that only older snapshots or nobody names, nor in the plans of runs."""
    url = str(tmp_path / "store")
    advance(
        url,
        IMAGES,
        fails={"a-of-mine.jpg": "timeout"},
        columns={name: {"owner": f"owner of {name}", "price": 1} for name in IMAGES},
    )
    for price in (2, 3):
        change_columns(url, {name: {"owner": f"owner of {name}", "price": price} for name in IMAGES})
    write_columns(url, {name: {"owner": f"{name} of a killed run"} for name in IMAGES})
    before = {number: kept_columns(Store.open(url, number)) for number in (1, 2, 3)}
    shards = len(files.names(f"{url}/index"))
    purge(url, GONE)
    assert (
        len(files.names(f"{url}/index")) == shards
    )  # of one shard with three kinds of columns, one new index
    after = {number: kept_columns(Store.open(url, number)) for number in (1, 2, 3, 4)}
    left = {
        number: {name: values for name, values in columns.items() if name not in GONE}
        for number, columns in before.items()
    }
    assert after == {**left, 4: left[3]}
    assert verify(url).problems == []
    said = ""
    for path in [*(tmp_path / "store" / "columns").iterdir(), *(tmp_path / "store").glob("plans/*/parts/*")]:
        said += str(pq.read_table(path).to_pylist())
    assert "owner of b-of-mine" in said
    assert not any(name in said for name in GONE)


def test_who_publishes_meanwhile_publishes_on_top_of_it(tmp_path, monkeypatch):
    """Its base still had the images; what it did of them is a file of its own, which goes at the second look."""
    url = history(str(tmp_path / "store"))
    run = start(url)
    plan(run, {"a-of-mine.jpg": "7", "late.jpg": "1"}, shard_size=1)
    process(run)
    removed, waiting = purging.remove, [run]

    def after_the_other(place, names):
        if waiting:
            finish(waiting.pop())
        removed(place, names)

    monkeypatch.setattr(purging, "remove", after_the_other)
    purge(url, GONE)
    assert everywhere(url).isdisjoint(GONE)
    assert "late.jpg" in Store.open(url).ids()
    assert verify(url).problems == []


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 60))
def test_stopped_anywhere_the_store_can_be_read_and_a_second_time_ends_it(survives):
    with tempfile.TemporaryDirectory() as folder:
        url = history(f"{folder}/store")
        before, writes = seen(url), []
        originals = files.write_atomic, purging.remove, layout.create_snapshot

        def counted(function):
            def call(*arguments):
                writes.append(arguments)
                if len(writes) > survives:
                    raise KeyboardInterrupt
                return function(*arguments)

            return call

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "write_atomic", counted(originals[0]))
            patch.setattr(layout, "create_snapshot", counted(originals[2]))
            patch.setattr(
                purging, "remove", lambda place, names: [counted(originals[1])(place, [n]) for n in names]
            )
            try:
                purge(url, GONE)
            except KeyboardInterrupt:
                for number, outcome in seen(url).items():
                    assert outcome in (before.get(number), without(before.get(number, before[4]), GONE))
                assert verify(url).problems == []
        purge(url, GONE)
        assert everywhere(url).isdisjoint(GONE)
        assert {number: seen(url)[number] for number in before} == {
            number: without(outcome, GONE) for number, outcome in before.items()
        }
        assert verify(url).problems == []


def test_the_command_reads_ids_a_line(tmp_path, capsys):
    url = history(str(tmp_path / "store"))
    (tmp_path / "ids.txt").write_bytes(b"a-of-mine.jpg\r\n\nc-of-mine.jpg\nnever-there.jpg\n")
    assert cli.main(["store", "purge", url, "--ids", str(tmp_path / "ids.txt")]) == 0
    assert "2 of 3 ids found, 5 snapshots written without them" in capsys.readouterr().out
    assert cli.main(["store", "purge", url, "--ids", str(tmp_path / "none.txt")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "ids.txt").write_bytes(b"\n")
    assert cli.main(["store", "purge", url, "--ids", str(tmp_path / "ids.txt")]) == 2
    assert "has no id in it; expected an id a line" in capsys.readouterr().err


CAPTIONS = {
    f"{number}.jpg": [f"a dog number {number}", "a secret" if number == 3 else "a cat"] for number in range(8)
}


def make(tmp_path):
    inputs = list_inputs([write_json(tmp_path / "c.json", coco(CAPTIONS))], [], val_share=0.3)
    return tokenize(str(tmp_path / "tokens"), inputs, TokenizeOptions("words", min_count=2))


def test_the_images_and_their_captions_are_gone_and_the_rest_stays(tmp_path):
    before = make(tmp_path)
    rows = [row for row in before.table.to_pylist() if row["image_id"] != "3.jpg"]
    assert purge_tokens(before.url, ["train/3.jpg", "not-there.jpg"]) == {"3.jpg"}
    after = TokenTable.open(before.url)
    assert after.table.to_pylist() == rows
    assert sum(after.record["splits"][split]["images"] for split in ("train", "val")) == 7
    assert b"secret" not in files.read_bytes(f"{before.url}/tokens.arrow")
    assert purge_tokens(before.url, ["3.jpg"]) == set()


def test_killed_between_table_and_record_it_is_run_again(tmp_path, monkeypatch):
    before = make(tmp_path)

    def dies(url, data, write=files.write_atomic):
        if url.endswith("record.json"):
            raise KeyboardInterrupt
        write(url, data)

    with monkeypatch.context() as patch:
        patch.setattr(purging.files, "write_atomic", dies)
        with contextlib.suppress(KeyboardInterrupt):
            purge_tokens(before.url, ["3.jpg"])
    purge_tokens(before.url, ["3.jpg"])
    record = TokenTable.open(before.url).record
    assert record["splits"]["train"]["images"] + record["splits"]["val"]["images"] == 7


def test_a_purged_image_that_its_source_still_has_comes_back_as_a_new_row(tmp_path):
    url = history(str(tmp_path / "store"))
    before = outcomes(Store.open(url))
    purge(url, GONE)
    advance(url, {**IMAGES, "c-of-mine.jpg": "2", "d-of-mine.jpg": "2"})
    assert outcomes(Store.open(url)) == before
    assert verify(url).problems == []


def test_a_run_that_planned_a_purged_image_says_so_and_can_be_started_again(tmp_path):
    url = history(str(tmp_path / "store"))
    run = start(url)
    plan(run, {"late.jpg": "1", "later.jpg": "1"})
    process(run)
    purge(url, {"late.jpg"})
    with pytest.raises(SystemicError, match="planned shards have no commit"):
        finish(run)
    advance(url, {"later.jpg": "1"})
    assert "later.jpg" in Store.open(url).ids()
    assert everywhere(url).isdisjoint({"late.jpg"})


def test_what_killed_runs_and_zombies_left_goes_too(tmp_path):
    url = history(str(tmp_path / "store"))
    killed = start(url)
    plan(killed, {"new-a.jpg": "1", "new-b.jpg": "1"}, shard_size=1)
    process(killed)
    for entry in list((tmp_path / "store" / "data").iterdir()):
        (entry.parent / f"zombie-{entry.name}").write_bytes(entry.read_bytes())
    (tmp_path / "store" / "data" / "half.parquet").write_bytes(b"PAR1 and no end")
    done = purge(url, {*GONE, "new-a.jpg"})
    assert done.unreadable == ["data/half.parquet"]
    (tmp_path / "store" / "data" / "half.parquet").unlink()
    assert everywhere(url).isdisjoint({*GONE, "new-a.jpg"})
    advance(url, {"last.jpg": "1"})
    assert {"new-b.jpg", "last.jpg"} <= set(Store.open(url).ids())
    assert verify(url).problems == []
