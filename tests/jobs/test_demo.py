"""``captionbeam demo``: its commands are real ones, and what it says at the end is counted."""

from __future__ import annotations

import json
import shlex

import pytest

from captionbeam.jobs import COMMANDS, demo
from captionbeam.jobs.ui import terminal
from captionbeam.schemas.errors import RequestError, SystemicError

SMALL = {"train": 3, "val": 2, "test": 2}


def test_the_commands_are_those_of_the_other_jobs_in_order():
    commands = demo.commands("some dir")
    assert [name for name in COMMANDS if name in commands] == list(commands)
    assert commands["tokenize"][:2] == ["--train", "some dir/scenes/captions_train.json"]


def test_scenes_are_drawn_once(tmp_path):
    demo.draw(str(tmp_path), SMALL, 0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert sorted(path.name for path in (tmp_path / "scenes").iterdir()) == [
        "captions_test.json", "captions_train.json", "captions_val.json", "test.zip", "train.zip", "val.zip",
    ]  # fmt: skip
    demo.draw(str(tmp_path), SMALL, 0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(
        RequestError, match="was made with --images 3 --held-out 2 --seed 0; expected the same"
    ):
        demo.draw(str(tmp_path), SMALL, 1)


def test_right_captions_are_counted_and_scores_averaged(tmp_path):
    demo.draw(str(tmp_path), SMALL, 0)
    held_out = json.loads((tmp_path / "scenes" / "captions_test.json").read_text())
    names = [image["file_name"] for image in held_out["images"]]
    said = [held_out["annotations"][0]["caption"], "a picture of nothing"]
    rows = [
        {"image_id": name, "caption": caption, "CIDEr": score}
        for name, caption, score in zip(names, said, (1.0, 2.0), strict=True)
    ]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = demo.summary(str(tmp_path))
    assert summary["held-out captions"] == "1 of 2 right in number, colour, shape and relation (50%)"
    assert summary["CIDEr"] == "1.500"
    assert summary["for example"] == "\n".join(said)


def test_a_job_that_fails_ends_the_demo(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(terminal, "_speaking", True)
    with pytest.raises(SystemicError, match="tokenize ended with status 2; the same demo command resumes"):
        demo.run_job("tokenize", ["--train", "none.json", "--output", str(tmp_path / "a b")])
    said = capfd.readouterr()
    assert (
        said.out
        == f"\n$ captionbeam tokenize --train none.json --output {shlex.quote(str(tmp_path / 'a b'))}\n"
    )
    assert "there is no caption file 'none.json'" in said.err
