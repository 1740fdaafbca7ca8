"""``--dry-run`` on every runner: what would run as JSON on standard output, and nothing else anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captionbeam.jobs import cli
from captionbeam.jobs.scenes.files import coco_format, draw_scenes
from captionbeam.schemas import Store

ENCODER = ["--encoder", "efficientnet_lite0", "--pooled", "--precision", "fp32"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dry")
    drawn = list(draw_scenes("train", 3))
    (folder / "photos").mkdir()
    for each in drawn:
        (folder / "photos" / each.name).write_bytes(each.jpeg)
    (folder / "captions.json").write_text(json.dumps(coco_format(drawn, 1)))
    return folder


@pytest.fixture(scope="module")
def store(photos):
    """A store that has them, and a failure."""
    (photos / "photos" / "broken.jpg").write_bytes(b"no picture")
    assert cli.main(["encode", f"{photos}/photos", "--output", f"{photos}/store", *ENCODER,
                     "--warn-failures", "1"]) == 0  # fmt: skip
    return photos / "store"


def everything(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


def dry(capsys, *arguments):
    status = cli.main([*map(str, arguments), "--dry-run"])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert err.endswith("dry run: nothing was written, sent or run\n")
    return json.loads(out)


def test_a_new_store_is_not_even_made(photos, capsys):
    before = everything(photos)
    found = dry(capsys, "encode", photos / "photos", "--output", photos / "new", *ENCODER)
    assert everything(photos) == before
    assert found["job"] == "encode"
    assert found["runner"] == {"name": "FnApiRunner", "beam_args": [], "gpu": None}
    run = found["run"]
    expected = {"url": f"{photos}/new", "kind": "features", "operation": "add", "parent": None, "place": ""}
    assert {name: run[name] for name in expected} == expected
    assert run["spec"]["name"] == "efficientnet_lite0"
    assert [step for step in found["steps"] if step in ("FindImages", "Await")] == ["FindImages", "Await"]
    assert any(step.startswith("PublishSnapshot") for step in found["steps"])


def test_a_store_stays_as_it_is(photos, store, capsys):
    before = everything(photos)
    found = dry(capsys, "refresh", photos / "photos", "--output", store, *ENCODER, "--runner", "PrismRunner")
    assert everything(photos) == before
    assert (found["job"], found["run"]["operation"], found["run"]["parent"]) == ("refresh", "refresh", 1)
    assert found["run"]["fingerprint"] == Store.open(str(store)).snapshot.fingerprint
    assert found["runner"] == {"name": "PrismRunner", "beam_args": ["--runner", "PrismRunner"], "gpu": None}


def test_no_token_table_is_made(photos, capsys):
    before = everything(photos)
    place = ["--train", photos / "captions.json", "--output", photos / "tokens"]
    found = dry(capsys, "tokenize", *place, "--kind", "words")
    assert everything(photos) == before
    assert (found["job"], found["output"]) == ("tokenize", f"{photos}/tokens")
    assert found["options"] == {"kind": "words"}
    assert "Tokenize" in found["steps"]


def test_failures_are_not_tried_again_either(store, capsys):
    before = everything(store)
    found = dry(capsys, "store", "retry-failures", store, "--all")
    assert everything(store) == before
    assert found["job"] == "store retry-failures"


def test_a_store_that_could_not_be_made_is_refused_as_the_run_would(photos, capsys):
    place = photos / "captions.json" / "new"  # below a file
    before = everything(photos)
    assert cli.main(["encode", f"{photos}/photos", *ENCODER, "--output", str(place), "--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert (out, everything(photos)) == ("", before)
    assert f"'{place}' cannot be written to (Not a directory); expected a writable folder or URL" in err
