"""``captionbeam store``: looking at snapshots, naming them, going back; on a local disk and on a URL."""

from __future__ import annotations

import json
import shlex
import uuid
from dataclasses import asdict

import pyarrow as pa
import pytest

from captionbeam.capmodel.data.dataset import Data
from captionbeam.capmodel.training.request import resolve_options
from captionbeam.jobs import COMMANDS, ListSnapshots, PromoteSnapshot, cli
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.maintenance.export import export
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError, StoreError
from captionbeam.schemas.store import layout, tags
from tests.builders.data.history import advance, content, plan, process, start
from tests.builders.data.stores import make_answers, make_features
from tests.builders.model.training import make_data, tiny_options


@pytest.fixture(params=["file", "memory"])
def place(request, tmp_path):
    """Where a store may be: a folder, a URL."""
    return str(tmp_path / "store") if request.param == "file" else f"memory://{uuid.uuid4().hex}/store"


@pytest.fixture
def three(place):
    """Three snapshots: a, b and a failing c; then b changed, c there, d new; then e new."""
    advance(place, {"a": "1", "b": "1", "c": "1"}, fails={"c": "timeout"})
    advance(place, {"a": "1", "b": "2", "c": "1", "d": "1"})
    advance(place, {"e": "1"}, fails={})
    return place


def said(capsys, *arguments):
    capsys.readouterr()
    assert cli.main(["store", *map(str, arguments)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("store ")])
def test_each_help_opens_with_a_command_that_the_parser_takes(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([*name.split(), "--help"])
    first = next(line.strip() for line in capsys.readouterr().out.splitlines() if line.strip())
    program, job, command, *arguments = shlex.split(first)
    assert (program, f"{job} {command}") == ("captionbeam", name)
    cli.parse(["store", command, *arguments])


def test_ls_lists_snapshots_and_marks_the_newest(three, capsys):
    said(capsys, "tag", three, "good", 2)
    listed = json.loads(said(capsys, "ls", three, "--json"))
    assert listed["newest"] == 3
    rows = [
        (row["snapshot"], row["operation"], row["rows"], row["failed"], row["tags"])
        for row in listed["snapshots"]
    ]
    assert rows == [(1, "add", 2, 1, []), (2, "add", 4, 0, ["good"]), (3, "add", 5, 0, [])]
    table = said(capsys, "ls", three)
    assert [line.split()[1] for line in table.splitlines() if " * " in line] == ["3"]
    assert "good" in table


def test_from_python_it_is_silent_and_returns_the_totals(three, capfd):
    found = ListSnapshots(store=three).run().totals
    assert (found["newest"], [row["rows"] for row in found["snapshots"]]) == (3, [2, 4, 5])
    assert PromoteSnapshot(store=three, tag="prod", snapshot="2").run().totals["snapshot"] == 2
    assert tuple(capfd.readouterr()) == ("", "")


def test_show_says_what_a_snapshot_is(three, capsys):
    shown = json.loads(said(capsys, "show", f"{three}@1", "--json"))
    assert shown["failures"] == {"timeout": 1}
    assert (shown["rows"], shown["failed"], shown["parents"]) == (2, 1, [])
    assert shown["sources"] == {"/images": 2}
    newest = json.loads(said(capsys, "show", three, "--json"))
    assert newest["parents"] == [2, 1]
    assert newest["runs"] == [snapshot.run for snapshot in reversed(layout.load_snapshots(three))]
    assert newest["spec"] == {"made": "by hand"}
    assert newest["bytes"] == Store.open(three).totals["bytes"] > 0
    assert "1 timeout" in said(capsys, "show", f"{three}@1")


def test_show_names_all_columns(tmp_path, capsys):
    store = make_answers(
        f"{tmp_path}/s", {"x": {"a": ["1"], "b": ["2"]}}, {"a": {"text": "?"}, "b": {"text": "!"}}
    )
    assert json.loads(said(capsys, "show", store.url, "--json"))["columns"] == ["a", "b"]
    assert "captions, parquet, columns a, b" in said(capsys, "show", store.url)


def test_diff_names_what_changed(three, capsys):
    found = json.loads(said(capsys, "diff", three, 1, 2, "--ids", "--json"))
    assert found["ids"] == {
        "added": ["c", "d"],
        "removed": [],
        "changed": ["b"],
        "redone": [],
        "columns": [],
        "failed": [],
        "recovered": ["c"],
    }
    assert (found["added"], found["changed"]) == (2, 1)
    assert "removed\te" in said(capsys, "diff", three, 3, 2, "--ids").splitlines()
    assert "removed\te" not in said(capsys, "diff", three, 3, 2)


def test_a_tag_stays_and_promote_moves(three, capsys):
    said(capsys, "tag", three, "prod", 1)
    assert cli.main(["store", "tag", three, "prod", "2"]) == 2
    assert "is snapshot 1; expected a new name, or `captionbeam store promote`" in capsys.readouterr().err
    assert Store.open(f"{three}@prod").snapshot_id == 1
    assert "is snapshot 3 (before: 1)" in said(capsys, "promote", three, "prod")
    assert Store.open(f"{three}@prod").snapshot_id == Store.open(three, "prod").snapshot_id == 3
    assert said(capsys, "promote", three, "new", "prod").endswith("@new is snapshot 3\n")


def test_promoting_forward_never_takes_a_tag_back(three, capsys):
    assert said(capsys, "promote", three, "prod", 2, "--forward").endswith("@prod is snapshot 2\n")
    assert "@prod is snapshot 2, later than 1" in said(capsys, "promote", three, "prod", 1, "--forward")
    assert Store.open(f"{three}@prod").snapshot_id == 2
    assert "is snapshot 3 (before: 2)" in said(capsys, "promote", three, "prod", "--forward")
    assert "is snapshot 1 (before: 3)" in said(capsys, "promote", three, "prod", 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tag", "STORE", "3"], "'3' is no name of a tag; expected letters, digits"),
        (["tag", "STORE", "x", "9"], "has no snapshot 9; it has 1, 2, 3"),
        (["rollback", "STORE@1", "1"], "names one snapshot; expected the store alone"),
        (["failures", "STORE", "--code", "x"], "--code is 'x'; expected one of"),
    ],
)
def test_a_wrong_request_is_one_sentence(three, arguments, sentence, capsys):
    assert cli.main(["store", *(argument.replace("STORE", three) for argument in arguments)]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_rollback_publishes_the_earlier_content(three, capsys):
    earlier = content(Store.open(three, 1))
    said(capsys, "rollback", three, 1)
    newest = Store.open(three)
    assert (newest.snapshot_id, newest.snapshot.parent, newest.snapshot.operation) == (4, 3, "rollback")
    assert newest.snapshot.note == "to snapshot 1"
    assert content(newest) == earlier
    assert "nothing to do" in said(capsys, "rollback", three, 1)
    assert layout.snapshot_ids(three) == [1, 2, 3, 4]


def test_training_pins_the_snapshot_that_a_tag_names(tmp_path):
    """The tag may move while a run trains, or before it goes on."""
    data = make_data(tmp_path, train=8, val=2)
    tags.set_tag(data["features"], "prod", 1)
    wanted = asdict(tiny_options(data, tmp_path)) | {"features": f"{data['features']}@prod", "snapshot": None}
    options, _ = resolve_options(wanted, workers=1)
    assert (options.features, options.snapshot) == (data["features"], 1)
    assert Data.open(options).store.snapshot_id == 1


def test_after_a_rollback_a_run_takes_up_what_was_committed(three, capsys):
    before = content(Store.open(three))
    said(capsys, "rollback", three, 1)
    commits = layout.committed_shards(three)
    advance(three, {"a": "1", "b": "2", "c": "1", "d": "1"})
    advance(three, {"e": "1"})
    assert content(Store.open(three)) == before
    assert layout.committed_shards(three) == commits


def test_rollback_while_another_publishes(three, capsys, monkeypatch):
    """The other comes between the look and the write: the rollback is published on top of it, nothing is torn."""
    run = start(three)
    plan(run, {"f": "1"})
    process(run)
    create, waiting = layout.create_snapshot, [run]

    def first_the_other(url, snapshot):
        if waiting:
            publish(waiting.pop())
        return create(url, snapshot)

    monkeypatch.setattr(layout, "create_snapshot", first_the_other)
    said(capsys, "rollback", three, 1)
    operations = [snapshot.operation for snapshot in layout.load_snapshots(three)]
    assert operations == ["add", "add", "add", "add", "rollback"]
    assert content(Store.open(three)) == content(Store.open(three, 1))
    assert "f" in content(Store.open(three, 4))


def test_a_snapshot_is_nothing_to_write_to(three):
    with pytest.raises(RequestError, match=r"@1 is a snapshot of .*, to be read; expected"):
        start(f"{three}@1")
    with pytest.raises(RequestError, match=r"@prod is a snapshot of"):
        export(Store.open(str(three)), f"{three}@prod", "parquet")


def test_an_at_in_the_path_itself_is_no_tag(tmp_path):
    folder = str(tmp_path / "me@home" / "features@v2")
    advance(folder, {"a": "1"})
    assert Store.open(folder).url == folder
    tags.set_tag(folder, "prod", 1)
    assert Store.open(f"{folder}@prod").url == folder
    with pytest.raises(RequestError, match="name one each"):
        Store.open(f"{folder}@prod", 1)
    with pytest.raises(StoreError, match="no tag 'dev'; it has prod"):
        Store.open(f"{folder}@dev")


def test_failures_are_listed_with_their_reasons(three, capsys):
    line = said(capsys, "failures", f"{three}@1")
    assert line.split("\t")[:3] == ["timeout", "fetch", "c"]
    assert "made to fail" in line
    (failure,) = json.loads(said(capsys, "failures", f"{three}@1", "--json"))
    assert (failure["image_id"], failure["code"]) == ("c", "timeout")
    assert said(capsys, "failures", three) == said(capsys, "failures", f"{three}@1", "--code", "decode") == ""


def test_failures_are_listed_with_their_kept_columns(tmp_path, capsys):
    values = {"price": [1.5, 2.0], "note": ["x" * 50, None]}
    make_features(f"{tmp_path}/s", [], failing=["a", "b"], kept=pa.table(values))
    lines = [line.split("\t") for line in said(capsys, "failures", f"{tmp_path}/s").splitlines()]
    assert [line[5:] for line in lines] == [[f"note={'x' * 37}..., price=1.5"], ["price=2.0"]]
