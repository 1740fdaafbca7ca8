"""``captionbeam train --on vertex``, against a job service that holds what arrives against Google's document."""

from __future__ import annotations

import json
from subprocess import PIPE

import pytest

from captionbeam.capmodel.bundles.contents import read_manifest
from captionbeam.jobs.cli import main
from captionbeam.schemas.storage import files
from tests.builders.clouds.slurm import wait_until
from tests.builders.model.training import SMALL, make_data
from tests.builders.running.commands import flags, start
from tests.builders.web.servers import upload

pytestmark = pytest.mark.engines
MODEL = {**SMALL, "device": "cpu", "precision": "fp32", "batch_size": 4, "epochs": 3}
MACHINE = {"region": "us-central1", "machine_type": "g2-standard-12", "image": "example.org/captionbeam:1"}


def arguments(where, output, *more, **chosen):
    places = {"features": f"{where}/features", "tokens": f"{where}/tokens", "output": output}
    return ["train", *flags(**places, **{**MODEL, **chosen}), *more]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, train=200)
    return folder


@pytest.fixture
def there(data, gcs):
    """The same data in a bucket."""
    for name in ("features", "tokens"):
        upload(str(data / name), f"{gcs.url}/{name}")
    return gcs.url


def epochs_of(output):
    """How many epochs the checkpoints have."""
    url = f"{output}-checkpoints/latest.json"
    record = files.read_json(url) if files.exists(url) else {}
    return len((record.get("position") or {}).get("history", ()))


def test_on_two_spot_machines_one_of_which_is_lost_it_gives_the_bundle_of_an_unbroken_run_here(
    data, there, vertex, tmp_path, capfd
):
    service, address = vertex
    output = f"{there}/bundle"
    words = arguments(
        there, output, "--on", "vertex", "--spot", **MACHINE, nodes=2, poll=0.2, vertex_endpoint=address,
        staging_bucket=f"{there}/staging", service_account="trainer@example.org", max_hours=2, label="team=photos",
        env="PROXY=none", network="projects/1/global/networks/inner", boot_disk_gb=200, checkpoint_minutes=0,
    )  # fmt: skip
    waiting = start(*words, stdout=PIPE)
    wait_until(lambda: epochs_of(output) == 1, seconds=120)
    ((parent, job),) = service.requests
    assert parent == "projects/a-project/locations/us-central1"
    check_job(job, there, output)
    (name,) = service.jobs
    service.lose(name, 1)
    said, _ = waiting.communicate(timeout=240)
    assert waiting.returncode == 0, said
    assert f"submitted to Vertex AI: {name} (https://console.cloud.google.com/vertex-ai/locations/" in said
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("epoch ")] == [
        f"epoch {epoch} of 3" for epoch in (1, 2, 3)
    ]
    logs = [service.machines[name].log(number).read_text() for number in (0, 1)]
    assert sum("workers: 2, going on after" in log for log in logs) == 1
    assert main(arguments(data, tmp_path / "here", workers=2)) == 0
    here, found = read_manifest(str(tmp_path / "here")), read_manifest(output)
    assert found.sha256 == here.sha256
    number = name.rpartition("/")[2]
    told = {"platform": "Vertex AI", "job": f"{number} of project a-project", "workers": 2, "device": "cpu"}
    assert found.trained_on == told
    in_bucket = service.folder / "gcs" / there.removeprefix("gs://") / "staging" / job["displayName"] / "logs"
    assert list(in_bucket.glob("events.out.tfevents.*"))
    assert len(service.requests) == 1
    assert main(words) == 0
    assert f"nothing to do: {output} holds the finished bundle" in capfd.readouterr().out


def check_job(job, there, output):
    name = job["displayName"]
    command = [
        "captionbeam", "train", "--features", f"{there}/features", "--tokens", f"{there}/tokens", "--output", output,
        "--checkpoints", f"{output}-checkpoints",
        "--logs", f"/gcs/{there.removeprefix('gs://')}/staging/{name}/logs", "--snapshot", "1",
        "--epochs", "3", "--batch-size", "4", "--embed-dim", "12", "--hidden-dim", "16", "--attention-dim", "8",
        "--feature-dim", "10", "--threads", "1", "--precision", "fp32", "--device", "cpu",
        "--checkpoint-minutes", "0.0", "--workers", "1", "--nodes", "2", "--rendezvous", "auto",
    ]  # fmt: skip
    pool = {
        "machineSpec": {"machineType": "g2-standard-12"},
        "replicaCount": "1",
        "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 200},
        "containerSpec": {
            "imageUri": "example.org/captionbeam:1",
            "command": command,
            "env": [{"name": "PROXY", "value": "none"}],
        },
    }
    assert job == {
        "displayName": name,
        "labels": {"captionbeam-run": name, "team": "photos"},
        "jobSpec": {
            "workerPoolSpecs": [pool, pool],
            "scheduling": {"timeout": "7200s", "restartJobOnWorkerRestart": True, "strategy": "SPOT"},
            "serviceAccount": "trainer@example.org",
            "network": "projects/1/global/networks/inner",
            "baseOutputDirectory": {"outputUriPrefix": f"{there}/staging/{name}"},
        },
    }


@pytest.fixture
def queued(vertex):
    """The service, busy: jobs stay in its queue."""
    service, address = vertex
    service.hold.set()
    yield service, address
    for job in service.jobs.values():
        job["jobSpec"]["workerPoolSpecs"] = job["jobSpec"]["workerPoolSpecs"][:1]
        job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["command"] = ["captionbeam", "--version"]
    service.hold.clear()


def test_a_run_is_submitted_once_and_its_request_is_what_dry_run_printed(there, queued, capsys):
    service, address = queued
    more = {"accelerator": "NVIDIA_L4", "gpus": 2, "nodes": 3, "vertex_endpoint": address, "project": "other"}
    words = arguments(there, f"{there}/bundle", "--on", "vertex", **MACHINE, **more)
    assert main([*words, "--dry-run"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert not service.requests
    assert not files.exists(f"{there}/bundle-checkpoints")
    assert main([*words, "--no-wait"]) == 0
    assert (
        "submitted to Vertex AI: projects/other/locations/us-central1/customJobs/1001"
        in capsys.readouterr().out
    )
    assert main([*words, "--no-wait"]) == 0
    assert "on Vertex AI already: projects/other/" in capsys.readouterr().out
    ((parent, job),) = service.requests
    assert printed == {"parent": parent, "customJob": job}
    first, others = job["jobSpec"]["workerPoolSpecs"]
    assert (first["replicaCount"], others["replicaCount"]) == ("1", "2")
    machine = {"machineType": "g2-standard-12", "acceleratorType": "NVIDIA_L4", "acceleratorCount": 2}
    assert first["machineSpec"] == machine
    command = first["containerSpec"]["command"]
    assert command[-6:] == ["--workers", "2", "--nodes", "3", "--rendezvous", "auto"]
    assert command[command.index("--logs") + 1] == f"/tmp/{job['displayName']}-logs"
    assert main([*words, "--restart"]) == 2
    assert "trains gs://" in capsys.readouterr().err


def test_a_job_that_fails_is_one_sentence_with_the_place_to_look(there, vertex, capsys):
    service, address = vertex
    words = arguments(
        there, f"{there}/bundle", "--on", "vertex", **{**MACHINE, "device": "cuda"}, poll=0.1,
        vertex_endpoint=address,
    )  # fmt: skip
    assert main(words) == 1
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith(
        "captionbeam: Vertex AI ended projects/a-project/locations/us-central1/customJobs/1001: JOB_STATE_FAILED: "
        "The replica workerpool0-0 exited with a non-zero status of 2.; its log says why: "
        "https://console.cloud.google.com/vertex-ai/locations/us-central1/training/1001?project=a-project "
    )
    (name,) = service.jobs
    said = service.machines[name].log(0).read_text()
    assert "captionbeam: no device 'cuda': this machine has 0 CUDA devices" in said


def test_a_wrong_request_is_refused_before_anything_is_sent(there, vertex, capsys):
    service, address = vertex
    values = {name: MACHINE[name] for name in ("machine_type", "image")}
    assert main(arguments(there, f"{there}/bundle", "--on", "vertex", **values, vertex_endpoint=address)) == 2
    assert "--on vertex needs --region" in capsys.readouterr().err
    assert not service.requests
