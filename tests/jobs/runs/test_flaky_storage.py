"""From photographs to a report in a bucket, on GCS and on S3, where a fifth of all requests to the storage fail."""

from __future__ import annotations

import json
import time

import fsspec
import pytest

from captionbeam.jobs.scenes.files import coco_format, draw_scenes
from captionbeam.schemas import Store
from captionbeam.schemas.storage import files
from tests.builders.running.zygote import captionbeam
from tests.builders.web.key_servers import ADDRESS
from tests.builders.web.meddler import HANG_UP, LOSE_THE_ANSWER, Weather, meddling

SEED = 7
COUNTS = {"train": 6, "val": 2, "test": 3}
SMALL = ["--embed-dim", 8, "--hidden-dim", 8, "--attention-dim", 8, "--feature-dim", 8]
# What is late by more than this is given up and asked for again.
PATIENCE = {"gs": {"gs": {"requests_timeout": 3}}, "s3": {"s3": {"config_kwargs": {"read_timeout": 3}}}}
LATE = 6.0


@pytest.fixture(scope="module")
def scenes():
    return {split: list(draw_scenes(split, count)) for split, count in COUNTS.items()}


def upload(url, scenes):
    first = 1
    for split, drawn in scenes.items():
        for each in drawn:
            files.write_atomic(files.join(url, "photos", split, each.name), each.jpeg)
        files.write_atomic(
            files.join(url, f"captions_{split}.json"), files.json_bytes(coco_format(drawn, first))
        )
        first += len(drawn)


def whole_path(url, to, storage, logs):
    """Every job once, everything in the bucket; what it gave."""
    fixed = ["--precision", "fp32", "--storage-options", json.dumps(storage)]
    captionbeam("encode", f"{url}/photos/train", f"{url}/photos/val", "--output", f"{to}/features", "--shard-size", 4,
                "--encoder", "efficientnet_lite0", "--batch-size", 4, "--image-size", 64, *fixed)  # fmt: skip
    captionbeam("tokenize", "--train", f"{url}/captions_train.json", "--val", f"{url}/captions_val.json",
                "--output", f"{to}/tokens", *fixed[2:])  # fmt: skip
    captionbeam("train", "--features", f"{to}/features", "--tokens", f"{to}/tokens", "--output", f"{to}/bundle",
                "--checkpoints", f"{to}/checkpoints", "--epochs", 1, "--batch-size", 4, "--device", "cpu",
                "--logs", f"{logs}/logs", *SMALL, *fixed)  # fmt: skip
    captionbeam("caption", f"{url}/photos/test", "--bundle", f"{to}/bundle", "--output", f"{to}/captions",
                "--keep-attention", *fixed)  # fmt: skip
    captionbeam("evaluate", "--captions", f"{to}/captions", "--references", f"{url}/captions_test.json",
                "--per-image", f"{to}/scores.jsonl", *fixed[2:])  # fmt: skip
    captionbeam("store", "verify", f"{to}/features", *fixed[2:])


def rows(url):
    """Every row, but for where its image lies."""
    places = {"uri", "version", "source"}
    found = (row for batch in Store.open(url).scan() for row in batch.to_pylist())
    return sorted((tuple((name, row[name]) for name in row if name not in places) for row in found), key=str)


def given(to):
    features, captions = Store.open(f"{to}/features"), Store.open(f"{to}/captions")
    assert features.failures().num_rows == captions.failures().num_rows == 0
    return rows(features.url), rows(captions.url), files.read_bytes(f"{to}/scores.jsonl")


@pytest.fixture(scope="module")
def calm(scenes, tmp_path_factory):
    """The same path on this machine's disk, unbroken."""
    folder = str(tmp_path_factory.mktemp("calm"))
    upload(folder, scenes)
    whole_path(folder, folder, {}, folder)
    return given(folder)


def test_the_whole_path_through_bad_weather(bucket, scenes, calm, monkeypatch, tmp_path):
    kind = bucket.server.protocol
    upload(bucket.url, scenes)
    weather = Weather(SEED, share=0.2, late=LATE)
    with meddling(bucket.server.address, weather) as address, monkeypatch.context() as patch:
        patch.setenv(ADDRESS[kind], address)
        whole_path(bucket.url, bucket.url, PATIENCE[kind], tmp_path)
    assert weather.seen > 150
    assert set(weather.kinds) == {"429", "500", "503", "hung up", "answer lost", "late"}
    assert weather.kinds.total() > 0.15 * weather.seen
    assert given(bucket.url) == calm
    captioned = [row for batch in Store.open(f"{bucket.url}/captions").scan() for row in batch.to_pylist()]
    places = {f"{bucket.url}/photos/test/{each.name}" for each in scenes["test"]}
    assert {row["uri"] for row in captioned} == places
    captionbeam("report", "--captions", f"{bucket.url}/captions", "--references", f"{bucket.url}/captions_test.json",
                "--output", f"{bucket.url}/report.html")  # fmt: skip
    page = files.read_bytes(f"{bucket.url}/report.html").decode()
    assert all(each.name in page for each in scenes["test"])
    assert page.count("data:image/") >= len(places)


@pytest.fixture
def refusing(bucket, monkeypatch):
    """The bucket behind a server that answers as a list says, one after the other, and asks for a second's rest."""
    plan, seen = [], []

    def decide(method, path):
        seen.append(time.monotonic())
        return plan.pop(0) if plan else None

    with meddling(bucket.server.address, decide, retry_after="1") as address:
        monkeypatch.setenv(ADDRESS[bucket.server.protocol], address)
        fsspec.get_filesystem_class(bucket.server.protocol).clear_instance_cache()
        yield bucket.url, plan, seen


@pytest.mark.parametrize("trouble", [503, HANG_UP, LOSE_THE_ANSWER])
def test_what_passes_is_asked_for_again(refusing, trouble):
    url, plan, seen = refusing
    target = files.join(url, "a.json")
    for ask in (
        lambda: files.create(target, b"x") is True,
        lambda: files.read_bytes(target) == b"x",
        lambda: files.names(url) == ["a.json"],
        lambda: files.exists(target),
        lambda: files.write_atomic(target, b"x") is None,
    ):
        plan[:] = [trouble]
        before = len(seen)
        assert ask()
        assert len(seen) - before >= 2
        assert not plan


@pytest.mark.parametrize(("status", "error"), [(403, PermissionError), (404, FileNotFoundError)])
def test_what_does_not_pass_is_asked_for_once(refusing, status, error):
    url, plan, seen = refusing
    target = files.join(url, "a.json")
    files.write_atomic(target, b"x")
    fs, path = files.split(target)
    plan[:] = [status] * 20
    del seen[:]
    with pytest.raises(error), files.as_os_errors(target):
        fs.cat_file(path, start=0, end=1)
    assert len(seen) == 1


def test_an_upload_in_parts_survives_answers_that_get_lost(refusing):
    """Begun, sent, completed: each of the answers is lost once."""
    url, plan, _ = refusing
    target = files.join(url, "large")
    data = bytes(range(256)) * (24 << 10)  # 6 MiB
    fs, path = files.split(target)
    plan[:] = [None, LOSE_THE_ANSWER, None, LOSE_THE_ANSWER, None, LOSE_THE_ANSWER]
    with fs.open(path, "wb", block_size=5 << 20) as stream:
        stream.write(data[: 5 << 20])
        stream.write(data[5 << 20 :])
    del plan[:]
    assert files.read_bytes(target) == data
    plan[:] = [LOSE_THE_ANSWER]
    fs.rm_file(path)
    assert files.names(url) == []


def test_a_server_that_asks_for_a_rest_gets_it(refusing):
    url, plan, seen = refusing
    files.write_atomic(files.join(url, "a.json"), b"x")
    plan[:] = [429, 503]
    del seen[:]
    assert files.read_bytes(files.join(url, "a.json")) == b"x"
    assert seen[1] - seen[0] >= 0.9
    assert seen[2] - seen[1] >= 0.9
