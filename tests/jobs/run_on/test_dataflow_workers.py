"""Jobs on Dataflow, run: a worker has its image and what was staged, and Beam's own boot program puts it together.

The service of these tests takes the pipeline from the bucket. What its workers know of captionbeam they were sent.
"""

from __future__ import annotations

import json
import time
import urllib.request
from subprocess import PIPE

import numpy as np
import pytest

from captionbeam.jobs.scenes.files import coco_format, draw_scenes
from captionbeam.schemas import Store
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from tests.builders.data.stores import commits, rows_of
from tests.builders.engines.dataflow import ENDPOINT, dataflow_service, running
from tests.builders.engines.worker_image import container, worker_image
from tests.builders.model.models import WORDS, bundle_for
from tests.builders.running import commands
from tests.builders.running.commands import environment
from tests.builders.running.zygote import captionbeam

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]
IMAGE = "europe-docker.pkg.dev/a-project/images/captionbeam:1"
FLAGS = ["--runner", "DataflowRunner", "--project", "a-project", "--region", "us-central1",
         "--sdk_container_image", IMAGE, "--dataflow_endpoint", ENDPOINT]  # fmt: skip


@pytest.fixture(scope="module")
def worker():
    """A container of containers/cpu.Dockerfile's image without captionbeam, which a worker is sent anyway."""
    with container(worker_image()) as running:
        running.run("sh", "-c", "python -m pip uninstall --quiet --yes --root-user-action ignore captionbeam")
        yield running


@pytest.fixture
def service(worker, gcs, tmp_path):
    with dataflow_service(running(worker, tmp_path / "machines")) as service:
        yield service


@pytest.fixture
def start(service, gcs, tmp_path):
    """Starts a command as a user would, with Dataflow's flags."""

    def run(*arguments):
        own = {**environment(), **service.environment(tmp_path)}
        words = [*arguments, *FLAGS, "--temp_location", f"{gcs.url}/tmp"]
        return commands.start(*words, env=own, stdout=PIPE, stderr=PIPE)

    return run


@pytest.fixture
def launch(start, tmp_path):
    """Runs it to its end; gives what it printed."""

    def run(*arguments, status=0):
        started = start(*arguments)
        out, err = started.communicate()
        logs = [path.read_text(errors="replace")[-3000:] for path in (tmp_path / "machines").glob("*/*log")]
        assert started.returncode == status, "\n".join([out, err, *logs])
        return out, err

    return run


def names(split="train", count=6):
    return sorted(each.name for each in draw_scenes(split, count))


@pytest.fixture
def photos(gcs):
    drawn = list(draw_scenes("train", 6))
    for each in drawn:
        files.write_atomic(f"{gcs.url}/photos/{each.name}", each.jpeg)
    files.write_atomic(f"{gcs.url}/photos/broken.jpg", b"not a picture")
    files.write_atomic(f"{gcs.url}/captions.json", files.json_bytes(coco_format(drawn, 1)))
    return gcs.url


def encode(url, *more, store=None):
    return ["encode", f"{url}/photos", "--output", store or f"{url}/features", "--encoder", "efficientnet_lite0",
            "--precision", "fp32", "--batch-size", 2, "--shard-size", 1, "--warn-failures", 1, *more]  # fmt: skip


def cancel(service, job):
    """As ``gcloud dataflow jobs cancel`` does."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.server_port}/v1b3/projects/a-project/locations/us-central1/jobs/{job.id}",
        data=json.dumps({"requestedState": "JOB_STATE_CANCELLED"}).encode(), method="PUT",
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30):
        pass


def test_encode_goes_on_after_a_cancel_and_caption_and_refresh_follow(
    photos, start, launch, service, worker, tmp_path
):
    asked = "import importlib.util as u; print(u.find_spec('captionbeam'))"
    assert worker.run("python", "-c", asked).strip() == "None"
    store = f"{photos}/features"

    cancelled = start(*encode(photos))
    while not layout.committed_shards(store) and cancelled.poll() is None:
        time.sleep(0.1)
    cancel(service, service.job)
    _, err = cancelled.communicate()
    assert cancelled.returncode == 1, err
    assert f"captionbeam: Dataflow job {service.job.id} was cancelled; see " in err
    before = commits(store)
    assert 1 <= len(before) <= 7
    assert layout.snapshot_ids(store) == []

    out, err = launch(*encode(photos))
    features = Store.open(store)
    assert sorted(features.ids()) == names()
    assert before.items() <= commits(store).items()
    assert len(commits(store)) == 7
    (failure,) = features.failures().to_pylist()
    assert (failure["image_id"], failure["code"]) == ("broken.jpg", "unsupported")
    assert failure["uri"] == f"{photos}/photos/broken.jpg"
    assert "1 process, 1 model" in out
    run = files.read_json(f"{store}/plans/{features.snapshot.run}/launch.json")
    assert run["job_id"] == service.job.id
    machine = tmp_path / "machines" / service.job.id
    assert (machine / "image").read_text() == IMAGE

    captionbeam(*encode(photos, store=tmp_path / "here"))
    expected, found = rows_of(tmp_path / "here"), rows_of(features)
    assert all(np.allclose(found[name], expected[name], atol=1e-2) for name in names())

    launch("caption", f"{photos}/photos", "--bundle", bundle_for(features, tmp_path / "bundle"), "--output",
           f"{photos}/captions", "--warn-failures", 1)  # fmt: skip
    captions = Store.open(f"{photos}/captions")
    assert sorted(captions.ids()) == names()
    texts = [row["captions"][0]["text"] for batch in captions.scan(["captions"]) for row in batch.to_pylist()]
    assert {word for text in texts for word in text.split()} <= {*WORDS, "<unk>"}
    assert len(texts) == 6

    fs, path = files.split(f"{photos}/photos/{names()[0]}")
    fs.rm_file(path)
    _, *rest = encode(photos, "--max-deletes", 1)
    out, _ = launch("refresh", *rest)
    assert "0 new, 0 changed, 1 gone, 6 unchanged" in out
    assert sorted(Store.open(store).ids()) == names()[1:]


def test_a_gpu_worker_without_a_gpu_stops_the_job_in_one_sentence(photos, launch):
    """It does not go on for hours on the CPU of a machine that is paid for its GPU."""
    _, err = launch(*encode(photos, "--gpu", "l4"), status=1)
    assert err.splitlines()[-1] == (
        "captionbeam: a worker cannot compute: no device 'cuda': this machine has 0 CUDA devices; expected workers "
        "with it, and a driver that suits their torch"
    )
    assert layout.snapshot_ids(f"{photos}/features") == []
