"""Beam's local runners give the rows that the in-process one gives, say what is wrong as it does, and go on like it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from captionbeam.jobs import cli
from captionbeam.jobs.scenes.files import draw_scenes
from captionbeam.schemas import Store
from captionbeam.schemas.formats.tokens import TokenTable
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from tests.builders.data.captions import coco, write_json
from tests.builders.engines.prism import prism_binary
from tests.builders.model.models import make_bundle, make_decoder, make_tokenizer
from tests.builders.running.commands import ROOT, environment
from tests.builders.running.workers import one_engine_a_process
from tests.builders.running.zygote import captionbeam

pytestmark = pytest.mark.engines
PROCESSES = {"processes": 2, "prism": 1}
SHARD, BATCH = 2, 2


@pytest.fixture(scope="module", params=PROCESSES)
def runner(request):
    """A runner's name and its flags."""
    if request.param == "prism":
        return "prism", ["--runner", "PrismRunner", "--prism_location", prism_binary()]
    return "processes", ["--direct_num_workers", 2, "--direct_running_mode", "multi_processing"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Drawn scenes and a broken file, captions, a bundle; and what the in-process runner makes of them."""
    folder = tmp_path_factory.mktemp("made")
    scenes = draw_scenes("train", 12)
    photos = folder / "photos"
    photos.mkdir()
    captions = {}
    for scene in scenes:
        (photos / scene.name).write_bytes(scene.jpeg)
        captions[scene.name] = [f"a scene of {scene.name}", "shapes"]
    (photos / "broken.jpg").write_bytes(b"not a picture")
    write_json(folder / "captions.json", coco(captions))
    run_all(folder, folder / "expected", [], lambda *words: cli.main([str(word) for word in words]))
    return folder


def run_all(made, place, flags, run):
    """Encode, refresh, caption and tokenize below ``place``."""
    photos = shutil.copytree(made / "photos", place / "photos")
    common = ["--shard-size", SHARD, "--batch-size", BATCH, "--warn-failures", 1, *flags]
    encoder = ["--encoder", "efficientnet_lite0", "--precision", "fp32"]
    run("encode", photos, "--output", place / "features", *encoder, *common)
    first, second, *_ = sorted(photos.glob("*.jpg"))[1:]
    first.write_bytes(second.read_bytes())
    second.unlink()
    run("refresh", photos, "--output", place / "features", *encoder, "--max-deletes", 2, *common)
    if not (made / "bundle").exists():
        save_bundle(made / "bundle", Store.open(str(place / "features")))
    run("caption", photos, "--bundle", made / "bundle", "--output", place / "captions", *common)
    run(
        "tokenize",
        "--train",
        made / "captions.json",
        "--val-share",
        0.3,
        "--output",
        place / "tokens",
        *flags,
    )


def save_bundle(url, store):
    (weights,) = files.names(store.models_url)
    tokenizer = make_tokenizer()
    make_bundle(
        (dict(store.spec), files.join(store.models_url, weights)),
        decoder=make_decoder(tokenizer, store.shape),
        tokenizer=tokenizer,
        features_fingerprint=store.fingerprint,
    ).save(str(url))


def rows(url, number=None):
    """A snapshot's rows by id, to the bit, and its failures; versions left out, which are times of files."""
    store = Store.open(str(url), number)
    column = store.column
    found = {
        row["image_id"]: row[column]
        for batch in store.scan(["image_id", column])
        for row in plain(batch).to_pylist()
    }
    failures = {(row["image_id"], row["stage"], row["code"]) for row in store.failures().to_pylist()}
    return found, failures


def plain(batch):
    arrays = [array.storage if isinstance(array, pa.ExtensionArray) else array for array in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def test_the_same_rows_and_one_engine_a_process(made, runner, tmp_path):
    name, flags = runner
    run_all(made, tmp_path, flags, captionbeam)
    features = tmp_path / "features"
    for number, operation in ((1, "add"), (2, "refresh")):
        found, failures = rows(features, number)
        assert (found, failures) == rows(made / "expected/features", number)
        assert len(found) == 13 - number
        assert failures == {("broken.jpg", "decode", "unsupported")}
        snapshot = layout.load_snapshot(str(features), number)
        assert snapshot.operation == operation
        held = one_engine_a_process(features, snapshot.run, processes=PROCESSES[name])
        assert len(held) <= PROCESSES[name]
    first = layout.load_snapshot(str(features), 1).run
    assert len(one_engine_a_process(features, first, processes=PROCESSES[name])) == PROCESSES[name]
    assert rows(tmp_path / "captions") == rows(made / "expected/captions")
    assert len(one_engine_a_process(tmp_path / "captions", processes=PROCESSES[name])) == PROCESSES[name]
    table = TokenTable.open(str(tmp_path / "tokens")).table
    assert table.equals(TokenTable.open(str(made / "expected/tokens")).table)


def test_killed_and_the_same_command_again(made, runner, tmp_path):
    name, flags = runner
    store = tmp_path / "features"
    command = ["encode", made / "photos", "--output", store, "--encoder", "efficientnet_lite0", "--precision", "fp32",
               "--shard-size", SHARD, "--batch-size", BATCH, "--warn-failures", 1, *flags]  # fmt: skip
    job = subprocess.Popen(
        [sys.executable, "-m", "captionbeam", *map(str, command)], env=environment(), cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while not layout.committed_shards(str(store)) and job.poll() is None:
            time.sleep(0.01)
        job.kill()
        job.wait()
        if name != "prism":  # Beam leaves a Prism that it started to whoever comes after
            assert ends(job.pid), "a worker process outlived its job"
    finally:
        clean_up(job.pid)
    before = commits(store)
    assert len(before) > 0
    captionbeam(*command)
    assert rows(store) == rows(made / "expected/features", 1)
    assert before.items() <= commits(store).items()
    again = one_engine_a_process(store, processes=PROCESSES[name])
    assert sum(record.shards for record in again) == 7 - len(before)


@pytest.mark.parametrize("how", ["interrupted", "terminated"])
def test_an_end_before_its_time_is_one_sentence(made, tmp_path, how):
    flags = ["--direct_num_workers", 2, "--direct_running_mode", "multi_processing"]
    store = tmp_path / "features"
    command = ["encode", made / "photos", "--output", store, "--encoder", "efficientnet_lite0", "--precision", "fp32",
               "--shard-size", 1, "--batch-size", BATCH, "--warn-failures", 1, *flags]  # fmt: skip
    job = subprocess.Popen(
        [sys.executable, "-m", "captionbeam", *map(str, command)], env=environment(), cwd=ROOT, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        while not layout.committed_shards(str(store)) and job.poll() is None:
            time.sleep(0.01)
        job.send_signal(signal.SIGINT if how == "interrupted" else signal.SIGTERM)
        _, said = job.communicate(timeout=120)
    finally:
        clean_up(job.pid)
    assert job.returncode == 1, said
    assert "Traceback" not in said
    assert "captionbeam: interrupted; the same command resumes" in said.splitlines()
    captionbeam(*command)
    assert rows(store) == rows(made / "expected/features", 1)


def commits(store):
    return {
        shard: files.read_bytes(layout.commit_url(str(store), shard))
        for shard in layout.committed_shards(str(store))
    }


def ends(group, seconds=60):
    """Whether all processes of the group are gone within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def clean_up(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.parametrize("threads", [3])
def test_threads_are_what_each_worker_gets(made, tmp_path, threads):
    """And not that many for each of them: 16 that prepare images have no helpers."""
    done = captionbeam("encode", made / "photos", "--output", tmp_path / "store", "--encoder", "efficientnet_lite0",
                       "--batch-size", 8, "--warn-failures", 1, "--threads", threads)  # fmt: skip
    (record,) = one_engine_a_process(tmp_path / "store", threads=threads)
    assert record.limits["preparing"] == threads
    assert record.most["os_threads"] < 10 * threads + 40
    assert f"1 process, 1 model and {threads} threads, " in done.stdout


def test_the_summary_and_the_record_say_what_the_workers_held(made):
    (totals,) = (made / "expected/captions").glob("plans/*/totals.json")
    workers = json.loads(totals.read_text())["workers"]
    assert workers.pop("peak_rss_bytes") > 0
    assert workers == {"processes": 1, "hosts": 1, "models_each": 1, "devices_each": 1, "threads_each": 1}


def test_a_wrong_request_that_a_worker_finds_is_one_sentence(made, runner, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jpg").write_bytes(b"1")
    done = captionbeam("encode", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "store", "--encoder",
                       "efficientnet_lite0", *runner[1], status=2)  # fmt: skip
    said = [
        line for line in done.stderr.splitlines() if not line.startswith(("encode: ", "WARNING:PrismRunner"))
    ]
    assert said == [
        f"captionbeam: two images have the id 'x.jpg': {tmp_path}/a/x.jpg (in {tmp_path}/a) and "
        f"{tmp_path}/b/x.jpg (in {tmp_path}/b); expected one, or --on-duplicate first"
    ]
