"""From photographs to a report with everything in a bucket, on GCS and on S3, by the commands that a user types."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from captionbeam.jobs.scenes.files import coco_format, draw_scenes
from captionbeam.schemas import Store
from captionbeam.schemas.formats.tokens import TokenTable
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from tests.builders.commands import ROOT, environment
from tests.builders.inventories import gcs_report, objects, s3_report
from tests.builders.stores import commits, rows_of
from tests.builders.zygote import captionbeam

COUNTS = {"train": 12, "val": 4, "test": 4}
SMALL = ["--embed-dim", 16, "--hidden-dim", 16, "--attention-dim", 16, "--feature-dim", 16]


@pytest.fixture(scope="module")
def scenes():
    return {split: list(draw_scenes(split, count)) for split, count in COUNTS.items()}


def upload(url, scenes):
    """``<url>/photos/<split>/*.jpg`` and ``<url>/captions_<split>.json``."""
    first = 1
    for split, drawn in scenes.items():
        for each in drawn:
            files.write_atomic(files.join(url, "photos", split, each.name), each.jpeg)
        content = files.json_bytes(coco_format(drawn, first))
        files.write_atomic(files.join(url, f"captions_{split}.json"), content)
        first += len(drawn)


def encode(url, *arguments, store="features"):
    return ["encode", files.join(url, "photos/train"), files.join(url, "photos/val"), "--output",
            files.join(url, store), "--encoder", "efficientnet_lite0", "--shard-size", 4, "--batch-size", 4,
            "--precision", "fp32", *arguments]  # fmt: skip


def grids(store):
    return {name: row.tobytes() for name, row in rows_of(store).items()}


def test_the_whole_path(bucket, scenes, tmp_path):
    url = bucket.url
    names = {split: [each.name for each in drawn] for split, drawn in scenes.items()}
    upload(url, scenes)
    captionbeam(*encode(url))
    features = Store.open(files.join(url, "features"))
    assert sorted(features.ids()) == sorted(names["train"] + names["val"])
    assert {
        np.frombuffer(grid, np.float16).reshape(features.shape).any() for grid in grids(features).values()
    } == {True}
    assert f"nothing to do: all 16 images of {url}/features are done" in captionbeam(*encode(url)).stdout
    assert layout.snapshot_ids(features.url) == [1]

    captionbeam("tokenize", "--train", f"{url}/captions_train.json", "--val", f"{url}/captions_val.json",
                "--output", f"{url}/tokens")  # fmt: skip
    assert TokenTable.open(f"{url}/tokens").table.num_rows == 16
    captionbeam("train", "--features", f"{url}/features", "--tokens", f"{url}/tokens", "--output", f"{url}/bundle",
                "--epochs", 1, "--batch-size", 4, "--logs", tmp_path, *SMALL)  # fmt: skip
    assert "config.json" in files.names(f"{url}/bundle")

    captionbeam("caption", f"{url}/photos/test", "--bundle", f"{url}/bundle", "--output", f"{url}/captions",
                "--keep-attention", "--precision", "fp32")  # fmt: skip
    captioned = Store.open(f"{url}/captions")
    rows = [row for batch in captioned.scan() for row in batch.to_pylist()]
    assert sorted(row["image_id"] for row in rows) == names["test"]
    assert {row["uri"] for row in rows} == {f"{url}/photos/test/{name}" for name in names["test"]}

    captionbeam("evaluate", "--captions", f"{url}/captions", "--references", f"{url}/captions_test.json",
                "--per-image", f"{url}/scores.jsonl")  # fmt: skip
    scored = [json.loads(line) for line in files.read_bytes(f"{url}/scores.jsonl").splitlines()]
    assert sorted(line["image_id"] for line in scored) == names["test"]
    captionbeam("report", "--captions", f"{url}/captions", "--references", f"{url}/captions_test.json",
                "--output", f"{url}/report.html")  # fmt: skip
    page = files.read_bytes(f"{url}/report.html").decode()
    assert all(name in page for name in names["test"])
    assert page.count("data:image/") >= len(names["test"])


def test_a_store_moves_between_listing_and_inventory(bucket, scenes):
    """No image is done again for it; what the report no longer has is deleted, what it has anew is done."""
    photos, store = f"{bucket.url}/photos", f"{bucket.url}/features"
    for each in scenes["train"][:6]:
        files.write_atomic(f"{photos}/{each.name}", each.jpeg)
    small = [
        "--output",
        store,
        "--encoder",
        "efficientnet_lite0",
        "--image-size",
        64,
        "--pooled",
        "--precision",
        "fp32",
    ]
    captionbeam("encode", photos, *small)
    report = gcs_report if bucket.server.protocol == "gs" else s3_report
    said = captionbeam(
        "refresh", photos, *small, "--inventory", report(bucket.url, objects(bucket.url))
    ).stdout
    assert f"note: {photos} is listed from its inventory of 20" in said
    assert layout.snapshot_ids(store) == [1]
    fs, path = files.split(photos)
    fs.rm_file(f"{path}/{scenes['train'][0].name}")
    files.write_atomic(f"{photos}/new.jpg", scenes["val"][0].jpeg)
    manifest = report(bucket.url, objects(bucket.url))
    captionbeam("refresh", photos, *small, "--inventory", manifest, "--max-deletes", 1)
    expected = sorted(["new.jpg", *(each.name for each in scenes["train"][1:6])])
    assert sorted(Store.open(store).ids()) == expected
    captionbeam("refresh", photos, *small)
    assert layout.snapshot_ids(store) == [1, 2]
    captionbeam("store", "verify", store)


@pytest.mark.parametrize(("point", "committed"), [("between index and commit", 2)])
def test_killed_and_the_same_command_again(bucket, scenes, point, committed):
    upload(bucket.url, scenes)
    store = files.join(bucket.url, "features")
    killed = subprocess.run(
        [sys.executable, ROOT / "tests/builders/killed.py", point, "3", *map(str, encode(bucket.url))],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert layout.snapshot_ids(store) == []
    before = commits(store)
    assert len(before) == committed
    captionbeam(*encode(bucket.url))
    done = Store.open(store)
    assert sorted(done.ids()) == sorted(each.name for split in ("train", "val") for each in scenes[split])
    assert len(grids(done)) == done.count() == 16
    assert before.keys() <= set(done.manifest.column("shard").to_pylist())
    assert before.items() <= commits(store).items()


def test_copies_in_a_bucket_are_encoded_once(bucket, scenes):
    """Wherever they lie and whatever their names: the listing's MD5 puts them into one shard."""
    originals = {each.name: each.jpeg for each in scenes["train"][:6]}
    for name, jpeg in originals.items():
        files.write_atomic(f"{bucket.url}/photos/train/{name}", jpeg)
        files.write_atomic(f"{bucket.url}/photos/val/copy/{name}.jpg", jpeg)
    said = captionbeam(*encode(bucket.url)).stdout
    assert "6 rows of images with the same bytes as another, computed once" in said
    rows = grids(Store.open(f"{bucket.url}/features"))
    assert rows.keys() == originals.keys() | {f"copy/{name}.jpg" for name in originals}
    assert len(set(rows.values())) == 6
    assert all(rows[name] == rows[f"copy/{name}.jpg"] for name in originals)
