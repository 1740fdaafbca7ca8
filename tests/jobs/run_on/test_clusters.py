"""On real Spark and Flink clusters: the same command and a few flags give the rows of the in-process runner.

Two JVMs of the engine stand for two machines, each with Python processes of its own; the kills are kill -9.
"""

from __future__ import annotations

import operator
import re
import shutil
import signal
import subprocess
import time

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from captionbeam.jobs.scenes.files import coco_format, draw_scenes
from captionbeam.pipelines.transforms import CaptionImages, EncodeImages, FindImages
from captionbeam.schemas.formats.tokens import RECORD, TABLE
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from tests.builders.data.stores import commits, content
from tests.builders.engines.clusters import Cluster
from tests.builders.model.models import bundle_for
from tests.builders.running import commands
from tests.builders.running.processes import await_true
from tests.builders.running.workers import one_engine_a_process
from tests.builders.running.zygote import captionbeam
from tests.builders.web.endpoint import MODEL, scripted_endpoint

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]
ENCODER = ["--encoder", "efficientnet_lite0", "--precision", "fp32", "--batch-size", 4]
COMMON = ["--shard-size", 4, "--warn-failures", 1]
BROKEN = "broken.jpg"
# What a job of ours does differently on the two engines is shown on both, the rest on one of them.
on_spark, on_flink = (
    pytest.mark.parametrize("running_cluster", [name], indirect=True) for name in ("spark", "flink")
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Drawn scenes, one file that is no picture, captions, a bundle; and what the in-process runner makes of them."""
    folder = tmp_path_factory.mktemp("made")
    drawn = list(draw_scenes("train", 14))
    for name in ("photos", "moving"):
        for each in drawn:
            files.write_atomic(str(folder / name / each.name), each.jpeg)
        (folder / name / BROKEN).write_bytes(b"not a picture")
    (folder / "captions.json").write_bytes(files.json_bytes(coco_format(drawn)))
    captionbeam(*encode(folder, folder / "features"))
    bundle_for(folder / "features", folder / "bundle")
    captionbeam(*caption(folder, folder / "captions"))
    captionbeam(*tokenize(folder, folder / "tokens"))
    captionbeam(*refresh(folder, folder / "before"))
    change(folder / "moving", drawn)
    shutil.copytree(folder / "before", folder / "after")
    captionbeam(*refresh(folder, folder / "after"))
    return folder


def change(photos, drawn):
    """One more picture, one that changed, one that is gone."""
    (photos / "new.jpg").write_bytes(drawn[3].jpeg)
    (photos / drawn[0].name).write_bytes(drawn[1].jpeg)
    (photos / drawn[2].name).unlink()


def encode(folder, store, *flags):
    return ["encode", folder / "photos", "--output", store, *ENCODER, *COMMON, *flags]


def caption(folder, store, *flags):
    return ["caption", folder / "photos", "--bundle", folder / "bundle", "--output", store, "--batch-size", 4,
            "--keep-attention", *COMMON, *flags]  # fmt: skip


def tokenize(folder, tokens, *flags):
    return ["tokenize", "--train", folder / "captions.json", "--val-share", 0.2, "--output", tokens, *flags]


def refresh(folder, store, *flags):
    return ["refresh", folder / "moving", "--output", store, *ENCODER, "--pooled", "--max-deletes", 1, *COMMON,
            *flags]  # fmt: skip


def test_encode(cluster: Cluster, made, tmp_path):
    done = captionbeam(*encode(made, tmp_path / "store", *cluster.flags))
    assert content(tmp_path / "store") == content(made / "features")
    rows, (failure,) = content(tmp_path / "store")
    assert (len(rows), failure["image_id"], failure["code"]) == (14, BROKEN, "unsupported")
    assert f"note: {tmp_path}/store is a path" in done.stdout
    assert "15 of 15 images" in done.stderr
    assert "WARNING" not in done.stderr
    assert len(one_engine_a_process(tmp_path / "store")) <= 2
    assert "nothing to do" in captionbeam(*encode(made, tmp_path / "store")).stdout  # the local runner agrees
    assert layout.snapshot_ids(str(tmp_path / "store")) == [1]


@on_spark
def test_caption(cluster: Cluster, made, tmp_path):
    captionbeam(*caption(made, tmp_path / "store", *cluster.flags))
    assert content(tmp_path / "store") == content(made / "captions")
    assert one_engine_a_process(tmp_path / "store")


@pytest.mark.parametrize("running_cluster", ["spark"], indirect=True)
def test_caption_by_an_endpoint(cluster: Cluster, made, tmp_path):
    with scripted_endpoint() as server:
        asked = ["caption", made / "photos", "--captioner", f"openai:{server.url}", "--model", MODEL,
                 "--prompt", "Describe it.", *COMMON]  # fmt: skip
        captionbeam(*asked, "--output", tmp_path / "store", *cluster.flags)
        assert len(server.requests) == 14
        captionbeam(*asked, "--output", tmp_path / "local")
    assert content(tmp_path / "store") == content(tmp_path / "local")
    rows, (failure,) = content(tmp_path / "store")
    assert (len(rows), failure["image_id"]) == (14, BROKEN)


def test_transforms_of_another_pipeline(cluster: Cluster, made, tmp_path):
    how = {"models": f"{tmp_path}/models", "batch_size": 4, "precision": "fp32"}
    with beam.Pipeline(options=PipelineOptions(list(map(str, cluster.flags)))) as pipeline:
        images = pipeline | FindImages(f"{made}/photos")
        for name, outputs in (
            ("encoded", images | EncodeImages("efficientnet_lite0", **how)),
            ("captioned", images | CaptionImages(f"{made}/bundle", **how)),
        ):
            for part, rows in outputs._asdict().items():
                ids = rows | f"{name} {part}" >> beam.Map(operator.attrgetter("image_id"))
                _ = ids | f"write {name} {part}" >> beam.io.WriteToText(f"{tmp_path}/{name}-{part}")
    rows, failures = ([row["image_id"] for row in table] for table in content(made / "features"))
    for name in ("encoded", "captioned"):
        for part, expected in (("rows", rows), ("failures", failures)):
            texts = [path.read_text() for path in tmp_path.glob(f"{name}-{part}-*")]
            assert sorted("".join(texts).split()) == expected


@on_spark
def test_tokenize(cluster: Cluster, made, tmp_path):
    captionbeam(*tokenize(made, tmp_path / "tokens", *cluster.flags))
    found, expected = (
        files.read_json(f"{place}/{RECORD}") for place in (tmp_path / "tokens", made / "tokens")
    )
    assert {**found, "finished": ""} == {**expected, "finished": ""}
    assert (tmp_path / "tokens" / TABLE).read_bytes() == (made / "tokens" / TABLE).read_bytes()


@on_flink
def test_refresh(cluster: Cluster, made, tmp_path):
    shutil.copytree(made / "before", tmp_path / "store")
    done = captionbeam(*refresh(made, tmp_path / "store", *cluster.flags))
    assert "1 new, 1 changed, 1 gone, 13 unchanged" in done.stdout
    assert content(tmp_path / "store") == content(made / "after") != content(made / "before")


def start(made, store, cluster):
    """Encode with a shard for each image, in the background; what it says comes out of one pipe."""
    command = encode(made, store, *cluster.flags, "--shard-size", 1)
    return commands.start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("victim", ["python worker", "machine"])
def test_killed_in_the_middle(cluster: Cluster, made, tmp_path, victim):
    """kill -9 when some shards are committed and some are not: the job goes on by itself and loses nothing."""
    store = str(tmp_path / "store")
    job = start(made, store, cluster)
    committed = await_commits(job, store, 3)
    (cluster.pool.workers() if victim == "python worker" else cluster.machines())[0].kill()
    said, _ = job.communicate()
    assert job.returncode == 0, said
    assert len(committed) < 15, "too late to count"
    assert content(store) == content(made / "features")
    assert commits(store).items() >= committed.items()
    assert len(commits(store)) == 15
    assert "no problems" in captionbeam("store", "verify", store).stdout
    assert one_engine_a_process(store, killed=True)


def await_commits(job, store, number):
    """The first commits of ``job``, ``number`` or a few more."""
    while job.poll() is None:
        if len(found := commits(store)) >= number:
            return found
        time.sleep(0.02)
    raise AssertionError(f"the job ended first:\n{job.stdout.read()}")


@on_flink
def test_a_jar_to_submit(cluster: Cluster, made, tmp_path):
    """With ``--output_executable_path`` nothing runs until the jar is submitted, which publishes by itself."""
    jar, store = tmp_path / "job.jar", str(tmp_path / "store")
    done = captionbeam(*encode(made, store, *cluster.jar_flags, "--output_executable_path", jar))
    assert done.stdout.splitlines()[-1].startswith(f"wrote {jar}: nothing has run")
    assert layout.snapshot_ids(store) == []
    cluster.submit(jar)
    assert content(store) == content(made / "features")
    assert layout.snapshot_ids(store) == [1]


def test_interrupted(cluster: Cluster, made, tmp_path):
    """Ctrl-C: the cluster's job ends too; the same command goes on, here on the local runner."""
    store = str(tmp_path / "store")
    job = start(made, store, cluster)
    committed = await_commits(job, store, 2)
    job.send_signal(signal.SIGINT)
    said, _ = job.communicate()
    assert job.returncode == 1
    assert said.splitlines()[-1] == "captionbeam: interrupted; the same command resumes"
    assert "Traceback" not in said
    await_true("the end of the cluster's job", lambda: cluster.jobs() == 0)
    assert layout.snapshot_ids(store) == []
    captionbeam(*encode(made, store), "--shard-size", 1)
    assert content(store) == content(made / "features")
    assert commits(store).items() >= committed.items()


def test_a_wrong_request_that_a_worker_finds(cluster: Cluster, made, tmp_path):
    """Two sources have the same ids: only the job sees it."""
    wrong = captionbeam(
        "encode", made / "moving", *encode(made, tmp_path / "store", *cluster.flags)[1:], status=2
    )
    *_, last = wrong.stderr.splitlines()
    place = r"\S+ \(in \S+\)"
    assert re.fullmatch(
        rf"captionbeam: two images have the id '[a-z0-9_.]+': {place} and {place}; expected one, or "
        "--on-duplicate first",
        last,
    )
    assert not [word for word in ("Traceback", "java.", "WorkerError") if word in wrong.stderr]
