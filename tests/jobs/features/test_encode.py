"""``captionbeam encode`` through the console script, on pictures of every kind and on broken ones."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from captionbeam.capmodel.encoders.backbones import BACKBONES
from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.jobs.cli import main
from captionbeam.schemas import Store
from captionbeam.schemas.store import layout
from tests.builders.data.stores import rows_of
from tests.builders.running.commands import captionbeam

ENCODER = ["--encoder", "efficientnet_lite0", "--precision", "fp32", "--batch-size", 4]


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 255, (60, 80, 3), np.uint8)).convert(mode)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with good pictures in many formats, and bad ones."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    for number in range(5):
        picture(number).save(folder / "deep" / f"{number}.jpg")
    picture(5, "L").save(folder / "grey.png")
    picture(6, "CMYK").save(folder / "cmyk.jpg")
    picture(7, "P").save(folder / "palette.gif")
    picture(8, "RGBA").save(folder / "alpha.webp")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "cut.jpg").write_bytes((folder / "deep" / "0.jpg").read_bytes()[:900])
    (folder / "notes.txt").write_text("no image by its name")
    return folder


@pytest.fixture(scope="module")
def encoded(photos, tmp_path_factory):
    store = tmp_path_factory.mktemp("encoded") / "store"
    done = captionbeam(
        "encode", photos, "--output", store, *ENCODER, "--warn-failures", 0.9, "--price-per-hour", 2
    )
    return store, done


def test_every_image_is_a_row_or_a_failure(encoded):
    store = Store.open(str(encoded[0]))
    assert sorted(store.ids()) == sorted(
        [*(f"deep/{n}.jpg" for n in range(5)), "grey.png", "cmyk.jpg", "palette.gif", "alpha.webp"]
    )
    assert {row["image_id"]: row["code"] for row in store.failures().to_pylist()} == {
        "empty.jpg": "empty",
        "text.jpg": "unsupported",
        "cut.jpg": "truncated",
    }
    assert store.shape == (7, 7, 1280)
    for batch in store.scan(["grid"]):
        grids = batch.column("grid").to_numpy_ndarray()
        assert grids.dtype == np.float16
        assert np.isfinite(grids).all()


def test_the_summary_and_the_record_agree(encoded):
    store, done = encoded
    (record,) = Path(store).glob("plans/*/totals.json")
    totals = json.loads(record.read_text())
    assert (totals["images"], totals["rows"], totals["failed"]) == (12, 9, 3)
    assert totals["failures_by_code"] == {"empty": 1, "truncated": 1, "unsupported": 1}
    assert totals["cost_per_million_images"] > 0
    for said in ("12 in ", "9 in 1 shard", "1 empty", "cost per million images"):
        assert said in done.stdout
    run = json.loads((record.parent / "run.json").read_text())
    assert run["options"]["encoder"] == "efficientnet_lite0"
    assert {"python", "torch", "apache-beam", "pyarrow"} <= run["versions"].keys()
    assert run["base"] == {"snapshot": None, "adopted_shards": 0}


def test_the_totals_are_told_to_who_asks(photos, tmp_path):
    told = tmp_path / "totals.json"
    told.write_text("an earlier run's")
    command = ["encode", photos, "--output", tmp_path / "s", *ENCODER, "--pooled", "--totals", told]
    captionbeam(*command, "--max-failures", "0", status=1)
    assert told.read_bytes() == b""
    captionbeam(*command, status=3)
    totals = json.loads(told.read_text())
    assert (totals["snapshot"], totals["warned"]) == (1, True)
    record = json.loads(Path(tmp_path, "s", "plans", totals["run"], "totals.json").read_text())
    assert {**record, "warned": True} == totals
    missing = captionbeam(*command[:-1], tmp_path / "nowhere" / "totals.json", status=2)
    assert "nowhere/totals.json' cannot be written (No such file or directory)" in missing.stderr


def test_another_encoder_on_the_same_store_is_refused(encoded, photos):
    done = captionbeam("encode", photos, "--output", encoded[0], "--encoder", "efficientnet_lite0",
                       "--preprocess", "caffe", status=2)  # fmt: skip
    assert "preprocess.channels rgb, not bgr" in done.stderr
    done = captionbeam("encode", photos, "--output", encoded[0], *ENCODER, "--format", "hdf5", status=2)
    assert "expected --format parquet" in done.stderr


def vectors(store):
    return {name: row.tobytes() for name, row in rows_of(store).items()}


def test_a_zip_gives_the_same_rows_as_its_folder_in_parquet_and_hdf5(photos, tmp_path):
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for path in sorted(photos.rglob("*.*")):
            made.write(path, path.relative_to(photos).as_posix(), zipfile.ZIP_DEFLATED)
    found = {}
    for name, source, file_format in (("folder", photos, "parquet"), ("zip", archive, "hdf5")):
        captionbeam("encode", source, "--output", tmp_path / name, *ENCODER, "--pooled", "--format", file_format,
                    "--warn-failures", 1, "--shard-size", 5)  # fmt: skip
        found[name] = vectors(tmp_path / name)
    assert len(found["zip"]) == 9
    assert found["zip"] == found["folder"]
    assert {Path(path).suffix for path in (tmp_path / "zip/data").iterdir()} == {".h5"}


def test_a_sample_of_no_image_makes_no_store(photos, tmp_path, capsys):
    source, url = photos.parent / "one.jpg", tmp_path / "s"
    picture(1).save(source)
    command = ["encode", str(source), "--output", str(url), *map(str, ENCODER), "--sample", "0.0001"]
    assert main(command) == 2
    assert (
        f"captionbeam: --sample 0.0001 leaves none of the images (1 listed); expected a share that leaves one or "
        f"more for the new store {url}\n"
    ) in capsys.readouterr().err
    assert layout.snapshot_ids(str(url)) == []
    captionbeam(*command[:-2])
    captionbeam(*command)
    assert (layout.snapshot_ids(str(url)), Store.open(str(url)).ids()) == ([1], ["one.jpg"])


@pytest.mark.skipif(
    "CAPTIONBEAM_DATA" not in os.environ, reason="CAPTIONBEAM_DATA is not set: no real photographs"
)
def test_real_photographs_all_become_rows(tmp_path):
    images = Path(os.environ["CAPTIONBEAM_DATA"], "coco-mini/images")
    captionbeam("encode", images, "--output", tmp_path / "s", "--encoder", "efficientnet_lite0", "--pooled")
    store = Store.open(str(tmp_path / "s"))
    assert sorted(store.ids()) == sorted(path.name for path in images.iterdir())
    assert store.totals["failed"] == 0


def test_logits_are_a_column_of_their_own(tmp_path, capsys):
    """GoogLeNet's 1,000, by its own classifier; two outputs at once are refused."""
    picture(1).save(tmp_path / "a.jpg")
    torch.manual_seed(0)
    network = models.googlenet(weights=None, init_weights=False)
    torch.save(network.state_dict(), tmp_path / "googlenet.pth")
    command = ["encode", str(tmp_path / "a.jpg"), "--output", str(tmp_path / "s"), "--encoder", "googlenet",
               "--weights", str(tmp_path / "googlenet.pth"), "--image-size", "64", "--precision", "fp32"]  # fmt: skip
    assert main([*command, "--logits", "--pooled"]) == 2
    assert "--pooled and --logits exclude each other" in capsys.readouterr().err
    assert main([*command, "--logits"]) == 0
    store = Store.open(str(tmp_path / "s"))
    assert (store.column, store.shape, store.spec["output"]) == ("logits", (1000,), "logits")
    (batch,) = store.scan(["logits"])
    preset = BACKBONES["googlenet"].presets["IMAGENET1K_V1"].override(image_size=64)
    pixels = preset(decode_image((tmp_path / "a.jpg").read_bytes()))[None]
    with torch.inference_mode():
        expected = network.eval()(pixels)
    np.testing.assert_allclose(batch.column("logits").to_numpy_ndarray(), expected, rtol=2e-2, atol=2e-3)
    assert main([*command[:-1], "bf16"]) == 2  # grids do not go into a store of logits


def test_what_is_passed_over_is_said_and_recorded(encoded):
    store, done = encoded
    assert "note: 1 file passed over (.txt)" in done.stdout
    record = min(Path(store).glob("plans/*/totals.json"), key=os.path.getmtime)
    (source,) = json.loads(record.read_text())["sources"]
    assert (source["images"], source["passed_over"]) == (12, {".txt": 1})


def test_many_failures_are_status_3_and_too_many_status_1(photos, tmp_path):
    command = ["encode", photos, "--output", tmp_path / "s", *ENCODER, "--pooled"]
    done = captionbeam(*command, "--max-failures", 2, status=1)
    assert "expected at most 2 (--max-failures): not published" in done.stderr
    assert layout.snapshot_ids(str(tmp_path / "s")) == []
    done = captionbeam(*command, status=3)
    assert "3 of 12 images failed, more than the share of 0.05 (--warn-failures)" in done.stdout
    assert layout.snapshot_ids(str(tmp_path / "s")) == [1]


@pytest.mark.parametrize(
    ("name", "what"), [("config.json", "a bundle or another model"), ("tokens.arrow", "a token table")]
)
def test_what_is_something_else_becomes_no_store(photos, tmp_path, capsys, name, what):
    (tmp_path / name).write_text("{}")
    assert main(["encode", str(photos), "--output", str(tmp_path), *map(str, ENCODER)]) == 2
    assert f"{tmp_path} holds {what} ({name}); expected a store, or a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
