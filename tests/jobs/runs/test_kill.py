"""kill -9 at any moment, then the same command again: no row lost, none twice, no committed shard done again."""

from __future__ import annotations

import time
from pathlib import Path
from subprocess import DEVNULL

import numpy as np
import pytest
from PIL import Image

from captionbeam.schemas import Store
from captionbeam.schemas.store import layout
from tests.builders.data.stores import commits, rows_of
from tests.builders.running.commands import captionbeam, killed_at, start

IMAGES, SHARD = 42, 2
POINTS = [
    pytest.param("while planning", marks=pytest.mark.engines),
    pytest.param("between data and index", marks=pytest.mark.engines),
    "between index and commit",
    pytest.param("between the last commit and the snapshot", marks=pytest.mark.engines),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        Image.fromarray(random.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / f"{number:03d}.jpg")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def unbroken(photos, tmp_path_factory):
    """The rows of a run that nobody killed."""
    store = tmp_path_factory.mktemp("unbroken") / "store"
    captionbeam(*command(photos, store))
    return rows(Store.open(str(store)))


def command(photos, store):
    return ["encode", photos, "--output", store, "--encoder", "efficientnet_lite0", "--pooled",
            "--shard-size", SHARD, "--precision", "fp32", "--batch-size", 2, "--image-size", 96]  # fmt: skip


def rows(store):
    return {name: row.tobytes() for name, row in rows_of(store).items()}


def check(store_url, unbroken, committed_before):
    store = Store.open(str(store_url))
    assert rows(store) == unbroken
    assert [row["image_id"] for row in store.failures().to_pylist()] == ["broken.jpg"]
    assert committed_before.keys() <= set(store.manifest.column("shard").to_pylist())
    assert commits(store_url).items() >= committed_before.items()


@pytest.mark.parametrize("point", POINTS)
def test_killed_between_two_writes(photos, unbroken, tmp_path, point):
    store = tmp_path / "store"
    killed_at(point, 9, *command(photos, store))
    assert layout.snapshot_ids(str(store)) == []
    before = commits(store)
    expected = {"while planning": 0, "between the last commit and the snapshot": 22}.get(point, 8)
    assert len(before) == expected
    done = captionbeam(*command(photos, store))
    check(store, unbroken, before)
    assert f"in {22 - expected} shards" in done.stdout
    assert captionbeam(*command(photos, store)).stdout.count("nothing to do") == 1


@pytest.mark.engines
def test_killed_whenever(photos, unbroken, tmp_path):
    """From outside, when most of the shards are committed."""
    store = tmp_path / "store"
    process = start(*command(photos, store), stdout=DEVNULL, stderr=DEVNULL)
    while len(layout.committed_shards(str(store))) < 13 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = commits(store)
    captionbeam(*command(photos, store))
    check(store, unbroken, before)


def test_what_an_attempt_left_is_never_read(photos, unbroken, tmp_path):
    store = tmp_path / "store"
    captionbeam(*command(photos, store))
    Path(store, "data", "zombie-0123.parquet").write_bytes(b"half a file")
    assert rows(Store.open(str(store))) == unbroken
