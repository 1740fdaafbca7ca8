"""Stores in buckets: listed or from an inventory, with copies, killed; test_flaky_storage.py has the whole path."""

from __future__ import annotations

import pytest

from captionbeam.jobs.scenes.files import draw_scenes
from captionbeam.schemas import Store
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from tests.builders.data.inventories import gcs_report, objects
from tests.builders.data.stores import commits, rows_of
from tests.builders.running.commands import killed_at
from tests.builders.running.zygote import captionbeam

COUNTS = {"train": 12, "val": 4}


@pytest.fixture(scope="module")
def scenes():
    return {split: list(draw_scenes(split, count)) for split, count in COUNTS.items()}


def upload(url, scenes):
    """``<url>/photos/<split>/*.jpg``."""
    for split, drawn in scenes.items():
        for each in drawn:
            files.write_atomic(files.join(url, "photos", split, each.name), each.jpeg)


def encode(url, *arguments, store="features"):
    return ["encode", files.join(url, "photos/train"), files.join(url, "photos/val"), "--output",
            files.join(url, store), "--encoder", "efficientnet_lite0", "--shard-size", 4, "--batch-size", 4,
            "--precision", "fp32", *arguments]  # fmt: skip


def grids(store):
    return {name: row.tobytes() for name, row in rows_of(store).items()}


def test_a_store_moves_between_listing_and_inventory(gcs, scenes):
    """No image is done again for it; what the report no longer has is deleted, what it has anew is done."""
    photos, store = f"{gcs.url}/photos", f"{gcs.url}/features"
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
    said = captionbeam("refresh", photos, *small, "--inventory", gcs_report(gcs.url, objects(gcs.url))).stdout
    assert f"note: {photos} is listed from its inventory of 20" in said
    assert layout.snapshot_ids(store) == [1]
    fs, path = files.split(photos)
    fs.rm_file(f"{path}/{scenes['train'][0].name}")
    files.write_atomic(f"{photos}/new.jpg", scenes["val"][0].jpeg)
    manifest = gcs_report(gcs.url, objects(gcs.url))
    captionbeam("refresh", photos, *small, "--inventory", manifest, "--max-deletes", 1)
    expected = sorted(["new.jpg", *(each.name for each in scenes["train"][1:6])])
    assert sorted(Store.open(store).ids()) == expected
    captionbeam("refresh", photos, *small)
    assert layout.snapshot_ids(store) == [1, 2]
    captionbeam("store", "verify", store)


def test_killed_and_the_same_command_again(bucket, scenes):
    upload(bucket.url, scenes)
    store = files.join(bucket.url, "features")
    killed_at("between index and commit", 3, *encode(bucket.url))
    assert layout.snapshot_ids(store) == []
    before = commits(store)
    assert len(before) == 2
    captionbeam(*encode(bucket.url))
    done = Store.open(store)
    assert sorted(done.ids()) == sorted(each.name for split in ("train", "val") for each in scenes[split])
    assert len(grids(done)) == done.count() == 16
    assert before.keys() <= set(done.manifest.column("shard").to_pylist())
    assert before.items() <= commits(store).items()


def test_copies_in_a_bucket_are_encoded_once(s3, scenes):
    """Wherever they lie and whatever their names: the listing's ETag puts them into one shard."""
    originals = {each.name: each.jpeg for each in scenes["train"][:6]}
    for name, jpeg in originals.items():
        files.write_atomic(f"{s3.url}/photos/train/{name}", jpeg)
        files.write_atomic(f"{s3.url}/photos/val/copy/{name}.jpg", jpeg)
    said = captionbeam(*encode(s3.url)).stdout
    assert "6 rows of images with the same bytes as another, computed once" in said
    rows = grids(Store.open(f"{s3.url}/features"))
    assert rows.keys() == originals.keys() | {f"copy/{name}.jpg" for name in originals}
    assert len(set(rows.values())) == 6
    assert all(rows[name] == rows[f"copy/{name}.jpg"] for name in originals)
