"""Workers from the images of containers/, built for real: they give the rows of a run in this process, to the bit.

A worker has the image and what the launcher sent, put together by Beam's boot program, and shares one folder with it.
"""

from __future__ import annotations

import json
import shlex

import pytest

from captionbeam.jobs.run_on.packages import build_wheel
from captionbeam.jobs.scenes.files import draw_scenes
from captionbeam.schemas.store import layout
from tests.builders.data.stores import content
from tests.builders.engines.jobservers import job_server
from tests.builders.engines.worker_image import BOOT, OFFLINE, container, worker_image
from tests.builders.running.workers import one_engine_a_process
from tests.builders.running.zygote import captionbeam

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]


@pytest.fixture
def worker():
    """A container of a CPU worker's image."""
    with container(worker_image()) as running:
        yield running


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Drawn scenes, one file that is no picture, and what the in-process runner makes of them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "photos").mkdir()
    for scene in draw_scenes("train", 6):
        (folder / "photos" / scene.name).write_bytes(scene.jpeg)
    (folder / "photos" / "broken.jpg").write_bytes(b"not a picture")
    captionbeam(*encode(folder, folder / "here"))
    return folder


def encode(folder, store, *more):
    return ["encode", folder / "photos", "--output", store, "--encoder", "efficientnet_lite0", "--precision", "fp32",
            "--batch-size", 2, "--shard-size", 2, "--warn-failures", 1, *more]  # fmt: skip


@pytest.mark.parametrize("dockerfile", ["cpu.Dockerfile", "gpu.Dockerfile"])
def test_the_command_in_the_image(made, dockerfile):
    store = made / dockerfile
    with container(worker_image(dockerfile)) as image:
        image.run("captionbeam", *map(str, encode(made, store)), mounts=(made,))
    assert content(store) == content(made / "here")
    rows, failures = content(store)
    assert (len(rows), [failure["image_id"] for failure in failures]) == (6, ["broken.jpg"])


def test_workers_from_the_image_run_what_the_launcher_sent(worker, made, tmp_path):
    """Whatever captionbeam the image has: here one that cannot even be imported."""
    worker.run("bash", "-c", f"echo 'raise ImportError(__file__)' > {installed(worker)}")
    command = tmp_path / "worker"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(worker.command([BOOT], OFFLINE, (made,)))} "$@"\n')
    command.chmod(0o755)
    store = made / "outside"
    done = captionbeam(*encode(made, store, "--runner", "FlinkRunner", "--flink_version", "1.19", "--flink_master",
                               "[local]", "--flink_job_server_jar", job_server("flink"), "--environment_type",
                               "PROCESS", "--environment_config", json.dumps({"command": str(command)}),
                               "--extra_package", build_wheel(str(tmp_path))))  # fmt: skip
    assert "7 of 7 images" in done.stderr
    assert content(store) == content(made / "here")
    assert layout.snapshot_ids(str(store)) == [1]
    assert len(one_engine_a_process(store)) == 1


def installed(worker):
    """Where the image's own captionbeam begins."""
    return worker.run(
        "python", "-c", "import captionbeam.schemas as schemas; print(schemas.__file__)"
    ).strip()
