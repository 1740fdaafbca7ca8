"""Jobs on Dataflow as its API sees them, and what their launcher says: against a service that plays a script."""

from __future__ import annotations

import json
import re
import signal
import time
from subprocess import PIPE
from tempfile import gettempdir

import pytest

from captionbeam.jobs import cli
from captionbeam.jobs.run_on.flex import command, main
from captionbeam.jobs.scenes.files import coco_format, draw_scenes
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from tests.builders.clouds.discovery import complaints
from tests.builders.engines.dataflow import ENDPOINT, dataflow_service, scripted
from tests.builders.running.commands import environment, start

pytestmark = pytest.mark.engines
IMAGE = "europe-docker.pkg.dev/a-project/images/captionbeam:1"
DONE = scripted(("RUNNING", ""), ("BASIC", "All is well"), ("DONE", ""))


@pytest.fixture
def photos(gcs):
    """A bucket with three drawn scenes and their captions."""
    drawn = list(draw_scenes("train", 3))
    for each in drawn:
        files.write_atomic(f"{gcs.url}/photos/{each.name}", each.jpeg)
    files.write_atomic(f"{gcs.url}/captions.json", files.json_bytes(coco_format(drawn, 1)))
    return gcs.url


def cloud(url, *more):
    return ["--runner", "DataflowRunner", "--project", "a-project", "--region", "us-central1",
            "--temp_location", f"{url}/tmp", *more]  # fmt: skip


def encode(url, *more):
    return ["encode", f"{url}/photos", "--output", f"{url}/store", "--encoder", "efficientnet_lite0", "--pooled",
            *cloud(url, *more)]  # fmt: skip


def tokenize(url, *more):
    return ["tokenize", "--train", f"{url}/captions.json", "--output", f"{url}/tokens", "--kind", "words",
            "--min-count", "1", *cloud(url, *more)]  # fmt: skip


def gpu(name="l4"):
    return ["--gpu", name, "--sdk_container_image", IMAGE]


@pytest.fixture
def launch(monkeypatch, capsys, tmp_path):
    """Runs a command against a service; gives the exit status and what was said on both streams."""

    def run(arguments, service=None):
        if service is not None:
            for name, value in service.environment(tmp_path).items():
                monkeypatch.setenv(name, value)
            arguments = [*arguments, "--dataflow_endpoint", ENDPOINT]
        status = cli.main(arguments)
        return status, *capsys.readouterr()

    return run


def everything(url):
    fs, path = files.split(url)
    return {name: fs.info(name)["size"] for name in fs.find(path)}


def records(url, name):
    return [files.read_json(f"{url}/store/plans/{run}/{name}") for run in files.names(f"{url}/store/plans")]


def test_a_dry_run_prints_the_job_field_by_field_and_touches_nothing(photos, launch):
    before = everything(photos)
    status, out, err = launch([*encode(photos, *gpu()), "--labels", "team=vision", "--dry-run"])
    job = json.loads(out)
    assert (status, err) == (0, "dry run: nothing was written, sent or run\n")
    assert everything(photos) == before
    assert complaints(job, "Job") == []
    assert job["type"] == "JOB_TYPE_BATCH"
    assert re.fullmatch(r"captionbeam-encode-\d{8}-\d{6}-[0-9a-f]{8}", job["name"])
    assert job["labels"] == {
        "team": "vision",
        "captionbeam-job": "encode",
        "captionbeam-run": job["name"].removeprefix("captionbeam-encode-"),
        "captionbeam-store": f"{photos.removeprefix('gs://')}_store",
    }
    there = job["environment"]
    assert there["serviceOptions"] == ["worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx"]
    assert {"use_runner_v2", "no_use_multiple_sdk_containers"} <= set(there["experiments"])
    assert there["version"] == {"job_type": "FNAPI_BATCH", "major": "8"}
    assert there["tempStoragePrefix"].startswith(
        f"storage.googleapis.com/{photos.removeprefix('gs://')}/tmp/"
    )
    (pool,) = there["workerPools"]
    assert (pool["kind"], pool["machineType"], pool["diskSizeGb"]) == ("harness", "g2-standard-8", 100)
    assert (pool["numThreadsPerWorker"], pool["workerHarnessContainerImage"]) == (4, IMAGE)
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert {package["name"] for package in pool["packages"]} == {
        "captionbeam-0.1.0-py3-none-any.whl",
        "extra_packages.txt",
        "submission_environment_dependencies.txt",
    }
    sent = there["sdkPipelineOptions"]["options"]
    assert (sent["dry_run"], sent["save_main_session"], sent["region"]) == (False, False, "us-central1")


def test_the_job_that_is_sent_is_the_job_that_was_shown(photos, launch):
    shown = json.loads(launch([*encode(photos, *gpu()), "--dry-run", "--dataflow_endpoint", ENDPOINT])[1])
    with dataflow_service(scripted(("RUNNING", ""), ("CANCELLED", ""))) as service:
        status, out, err = launch(encode(photos, *gpu()), service)
    job = service.job
    assert settled(job.request) == settled(shown)
    assert status == 1
    console = f"https://console.cloud.google.com/dataflow/jobs/us-central1/{job.id}?project=a-project"
    assert out == f"Dataflow job {job.id}: {console}\n"
    assert (
        f"captionbeam: Dataflow job {job.id} was cancelled; see {console}; the same command resumes\n" in err
    )
    (run,), (sent,) = records(photos, "run.json"), records(photos, "launch.json")
    assert (run["runner"]["name"], run["runner"]["gpu"]) == ("DataflowRunner", "l4")
    assert "--machine_type=g2-standard-8" in run["runner"]["beam_args"]
    assert (sent["job_id"], sent["console"], sent["job_name"]) == (job.id, console, job.request["name"])
    assert (sent["project"], sent["region"], sent["template"]) == ("a-project", "us-central1", None)
    assert sent["runner"] == run["runner"]
    staged = {name.rpartition("/")[2] for name in everything(f"{photos}/tmp")}
    assert staged == {package["name"] for package in shown["environment"]["workerPools"][0]["packages"]} | {
        "pipeline.pb"
    }


def settled(job):
    """A job without what differs from launch to launch: times, the run's name, the pipeline's hash, a folder here."""
    told = {
        name: value for name, value in job.items() if name not in ("clientRequestId", "projectId", "location")
    }
    text = re.sub(r"\d{8}-\d{6}-[0-9a-f]{8}(\.\d+\.\d+)?", "RUN", json.dumps(told, sort_keys=True))
    text = re.sub(r'"pipelineProtoHash": "[0-9a-f]{64}"', '"pipelineProtoHash": "HASH"', text)
    return json.loads(re.sub(rf"{re.escape(gettempdir())}/[^']*?captionbeam-\w+/", "FOLDER/", text))


def test_the_launcher_waits_and_says_how_the_job_fares(photos, launch):
    play = scripted(
        ("RUNNING", ""), ("WARNING", "a zone\n is full"), ("BASIC", "not worth a line"), ("DONE", "")
    )
    with dataflow_service(play) as service:
        status, _, err = launch(tokenize(photos), service)
    job = service.job
    assert job.states == ["JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_DONE"]
    said = [line for line in err.splitlines() if line.startswith("Dataflow: ")]
    assert said[-1] == "Dataflow: done"
    assert "Dataflow: running" in said
    assert any("a zone is full" in line for line in said)
    assert "not worth a line" not in err
    assert status == 2  # the script published no table
    assert files.read_json(f"{photos}/tokens/launch.json")["job_id"] == job.id
    pool = job.request["environment"]["workerPools"][0]
    assert "numThreadsPerWorker" not in pool
    assert "use_multiple_sdk_containers" in job.request["environment"]["experiments"]


@pytest.mark.parametrize(
    ("error", "sentence", "status"),
    [
        (
            "Traceback (most recent call last):\n  File x\npipelines.boundary.WorkerError: <captionbeam SystemicError>"
            "the device is broken: no kernel</captionbeam> [while running 'Process']",
            "the device is broken: no kernel",
            1,
        ),
        (
            "Workflow failed. Causes: The zone does not have enough resources.",
            "Dataflow job {job} failed (Workflow failed. Causes: The zone does not have enough resources.); see "
            "{console}; the same command resumes",
            1,
        ),
    ],
)
def test_a_failed_job_is_one_sentence(photos, launch, error, sentence, status):
    with dataflow_service(scripted(("RUNNING", ""), ("ERROR", error), ("FAILED", ""))) as service:
        found, _, err = launch(tokenize(photos), service)
    job = service.job.id
    console = f"https://console.cloud.google.com/dataflow/jobs/us-central1/{job}?project=a-project"
    lines = [line for line in err.splitlines() if line.startswith("captionbeam: ")]
    assert (found, lines) == (status, ["captionbeam: " + sentence.format(job=job, console=console)])
    assert "Traceback" not in err


def test_ctrl_c_leaves_the_job_and_says_how_to_end_it(photos, tmp_path):
    with dataflow_service(scripted(("RUNNING", ""))) as service:
        own = {**environment(), **service.environment(tmp_path)}
        started = start(*tokenize(photos), "--dataflow_endpoint", ENDPOINT, env=own, stdout=PIPE, stderr=PIPE)
        line = started.stdout.readline()
        while service.job.states[-1] != "JOB_STATE_RUNNING":
            time.sleep(0.1)
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=60)
        job = service.job
        assert line.startswith(f"Dataflow job {job.id}: ")
        assert started.returncode == 1
        assert err.splitlines()[-1] == (
            f"captionbeam: interrupted here; Dataflow job {job.id} goes on, and publishes by itself; `gcloud dataflow "
            f"jobs cancel {job.id} --project a-project --region us-central1` ends it, and the same command resumes"
        )
        assert job.states[-1] == "JOB_STATE_RUNNING"


def test_without_credentials_nothing_is_tried(photos, launch, monkeypatch, tmp_path):
    with dataflow_service(DONE) as service:
        for name, value in service.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        status, _, err = launch([*tokenize(photos), "--dataflow_endpoint", ENDPOINT])
        assert service.jobs == {}
    assert status == 2
    assert err.splitlines()[-1].startswith("captionbeam: no credentials for Google Cloud (")
    assert "`gcloud auth application-default login`" in err


def test_the_flex_template_writes_its_job_and_does_not_wait(photos, launch):
    """With what Google's launcher passes, its labels' line breaks included."""
    template = f"{photos}/staging/template_launches/2026-01-02_03_04_05-1/job_object"
    passed = [
        "--job=encode", f"--sources={photos}/photos", f"--output={photos}/store",
        "--arguments=--encoder efficientnet_lite0 --pooled --gpu t4", "--runner=DataflowRunner",
        "--project=a-project", "--region=us-central1", "--job_name=nightly", f"--temp_location={photos}/tmp",
        f"--staging_location={photos}/staging", f"--template_location={template}",
        f"--sdk_container_image={IMAGE}", "--max_num_workers=4",
        '--labels={\n   "goog-dataflow-provided-template-type" : "flex"\n}\n', "--no_auth",
    ]  # fmt: skip
    status, out, err = launch(command(passed))
    assert status == 0, err
    assert out == f"the job is written, not run: its last step will publish {photos}/store\n"
    job = files.read_json(template)
    assert complaints(job, "Job") == []
    assert job["name"] == "nightly"
    assert job["labels"]["goog-dataflow-provided-template-type"] == "flex"
    assert job["labels"]["captionbeam-job"] == "encode"
    pool = job["environment"]["workerPools"][0]
    assert (pool["machineType"], pool["autoscalingSettings"]) == ("n1-standard-8", {"maxNumWorkers": 4})
    (sent,) = records(photos, "launch.json")
    assert (sent["job_id"], sent["template"], sent["job_name"]) == (None, template, "nightly")
    pipeline = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    assert files.exists(pipeline)
    assert layout.snapshot_ids(f"{photos}/store") == []


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        (
            ["--job=tokenize", "--output=gs://b/t", "--arguments=--train 'gs://b/a file.json'", "--region=r"],
            ["tokenize", "--output", "gs://b/t", "--train", "gs://b/a file.json", "--region=r"],
        ),
        (
            ["--sources=gs://b/one gs://b/two", "--output=gs://b/s", "--job=caption", "--job_name=caption"],
            ["caption", "gs://b/one", "gs://b/two", "--output", "gs://b/s", "--job_name=caption"],
        ),
    ],
)
def test_the_templates_parameters_become_a_command(passed, expected):
    assert command(passed) == expected


def test_parameters_that_are_no_words_are_refused(capsys):
    assert main(["--job=encode", "--output=gs://b/s", "--arguments=--sample 'a"]) == 2
    assert capsys.readouterr().err == (
        "captionbeam: the template's parameters are wrong: --arguments is \"--sample 'a\" (No closing quotation); "
        "expected words as in a shell\n"
    )
