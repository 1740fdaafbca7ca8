"""Two processes write to one store at once, on a disk, on GCS and on S3: no row is lost, and none is there twice."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from captionbeam.schemas import Store
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.rows import read_deletes
from tests.builders.running.commands import start
from tests.builders.running.zygote import captionbeam
from tests.builders.web.servers import upload

pytestmark = pytest.mark.engines
# Ten photographs (0 to 9), a third of which both writers are told to do; 4 is broken.
OURS, THEIRS = "[0-5]*.jpg", "[3-9]*.jpg"
WHOLE = {f"{n}.jpg" for n in range(10)} - {"4.jpg"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(random.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / f"{number}.jpg")
    (folder / "4.jpg").write_bytes(b"not a picture")
    return folder


@pytest.fixture(params=["file", "gs", "s3"])
def place(request, photos, tmp_path):
    """A disk or a bucket, with the photographs in it."""
    if request.param == "file":
        return str(photos.parent / photos.name), str(tmp_path / "store")
    url = request.getfixturevalue({"gs": "gcs", "s3": "s3"}[request.param]).url
    upload(str(photos), files.join(url, "photos"))
    return files.join(url, "photos"), files.join(url, "store")


def encode(place, pattern):
    photos, store = place
    return ["encode", files.join(photos, pattern), "--output", store, "--encoder", "efficientnet_lite0", "--pooled",
            "--shard-size", "2", "--batch-size", "2", "--precision", "fp32", "--warn-failures", "1"]  # fmt: skip


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def done(process):
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, said + errors
    return said


@contextmanager
def paused(point, folder, command):
    """The command as a process that waits at the point while the block runs, and then goes on and ends well."""
    process = start(point, folder, *command, program="tests/builders/running/paused.py", **PIPES)
    try:
        while not (folder / "here").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        yield
        (folder / "go").touch()
        done(process)
    finally:
        process.kill()


def check(store_url, images=WHOLE, broken=("4.jpg",)):
    """Each image once, each failure once, and the totals say the same."""
    store = Store.open(store_url)
    scanned = Counter(name for batch in store.scan(["image_id"]) for name in batch.column(0).to_pylist())
    assert scanned == Counter(images)
    assert Counter(store.ids()) == scanned
    assert [row["image_id"] for row in store.failures().to_pylist()] == list(broken)
    assert (store.totals["rows"], store.totals["failed"]) == (len(images), len(broken))
    assert store.totals["shards"] == store.manifest.num_rows
    return store


def rows_of(store_url, snapshot):
    return set(Store.open(store_url, snapshot).ids())


def test_two_that_overlap_and_start_together(place):
    both = [start(*encode(place, pattern), **PIPES) for pattern in (OURS, THEIRS)]
    for process in both:
        done(process)
    check(place[1])
    assert "nothing to do" in captionbeam(*encode(place, "*.jpg")).stdout


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_who_comes_before_the_other_publishes_takes_its_commits_along(place, tmp_path):
    """The first is held up with all its work committed: the second publishes it, and the first has nothing to add."""
    with paused("before the snapshot", tmp_path, encode(place, OURS)):
        captionbeam(*encode(place, THEIRS))
        assert rows_of(place[1], 1) == WHOLE
    store = check(place[1])
    assert not store.dead
    assert layout.snapshot_ids(place[1]) == [1]


def test_who_never_saw_the_others_commits_loses_nothing(place, tmp_path):
    """The first is held up before its first commit, the second does all its work and publishes: then the first
    joins again what was published meanwhile, and its rows of the images that both did go."""
    with paused("before a commit", tmp_path, encode(place, OURS)):
        captionbeam(*encode(place, THEIRS))
        assert rows_of(place[1], 1) == {f"{n}.jpg" for n in (3, 5, 6, 7, 8, 9)}
    check(place[1])
    assert rows_of(place[1], 1) == {f"{n}.jpg" for n in (3, 5, 6, 7, 8, 9)}
    assert layout.snapshot_ids(place[1]) == [1, 2]
    deletes = read_deletes(place[1], Store.open(place[1]).snapshot.deletes)
    assert sorted((row["image_id"], row["reason"]) for row in deletes) == [
        (f"{n}.jpg", "duplicate") for n in (3, 4, 5)
    ]


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_one_command_twice_at_once(place):
    """Both plan the same shards; whoever commits one first has done it, and one snapshot has them all."""
    both = [start(*encode(place, "*.jpg"), **PIPES) for _ in range(2)]
    for process in both:
        done(process)
    store = check(place[1])
    assert not store.dead
    assert len(layout.committed_shards(place[1])) == store.manifest.num_rows == 5
