"""``captionbeam train --on kubernetes``: through kubectl, to an API server with the published definitions."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import pytest
import yaml

from captionbeam.capmodel.bundles.contents import read_manifest
from captionbeam.jobs.cli import main
from tests.builders.clouds.kubeflow import as_published, misfits
from tests.builders.clouds.kubelet import filled
from tests.builders.clouds.slurm import wait_until
from tests.builders.model.training import SMALL, make_data
from tests.builders.running.commands import flags, start

pytestmark = pytest.mark.engines
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
MODEL = {**SMALL, "device": "cpu", "precision": "fp32", "batch_size": 4, "epochs": 3}
EVERYTHING = (
    "--label", "team=photos", "--env", "PROXY=none", "--env-secret", "AWS_ACCESS_KEY_ID=aws:id",
    "--node-selector", "gpu=h100", "--toleration", "nvidia.com/gpu:NoSchedule", "--toleration", "spot=yes:NoExecute",
)  # fmt: skip
MORE = {
    "nodes": 2,
    "gpus": 8,
    "cpus": 16,
    "memory": "64Gi",
    "service_account": "trainer",
    "shared_memory": "16Gi",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, train=200)
    return folder


@pytest.fixture(scope="module")
def here(data, tmp_path_factory):
    """What two workers of this machine give."""
    output = tmp_path_factory.mktemp("here") / "bundle"
    assert main(arguments(data, output, workers=2)) == 0
    return read_manifest(str(output))


def arguments(data, output, *more, **chosen):
    pairs = {"features": data / "features", "tokens": data / "tokens", "output": output, **MODEL, **chosen}
    return ["train", *flags(**pairs), *more]


def there(data, output, *more, **chosen):
    """Likewise on Kubernetes, with the volume that holds ``data``."""
    own = {"image": "example.org/captionbeam:1", "volume": f"photos:/data:{data}", **chosen}
    return arguments(data, output, "--on", "kubernetes", *more, **own)


def manifest_of(words, capsys):
    assert main([*words, "--dry-run"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(("version", "models"), [("2.0", "2.0.0"), ("2.1", "2.1.0"), ("2.2", "2.3.0")])
def test_a_trainjob_is_what_that_version_of_the_api_knows(data, capsys, version, models):
    job = manifest_of(there(data, data / "b", *EVERYTHING, **MORE, trainer_version=version), capsys)
    assert as_published(job, models) == job


def test_a_trainjob_fits_its_published_definition(data, capsys):
    job = manifest_of(there(data, data / "b", *EVERYTHING, **MORE, trainer_version="2.0"), capsys)
    assert misfits(job) == []
    wrong = json.loads(json.dumps(job))
    wrong["spec"]["trainer"]["numnodes"] = 2
    assert misfits(wrong) == [
        "$.spec.trainer: Additional properties are not allowed ('numnodes' was unexpected)"
    ]


def test_the_runtime_and_the_namespace_are_those_named(data, capsys):
    job = manifest_of(there(data, data / "b", runtime="torch-of-ours", namespace="photos"), capsys)
    assert job["spec"]["runtimeRef"]["name"] == "torch-of-ours"
    assert job["metadata"]["namespace"] == "photos"


def test_a_jobset_fits_its_published_definition(data, capsys):
    job = manifest_of(
        there(data, data / "b", *EVERYTHING, **MORE, kind="jobset", restarts=5, max_hours=2), capsys
    )
    assert misfits(job) == []
    assert as_published(job, "2.3.0") == job


@needs_kubectl
def test_a_jobset_that_loses_a_pod_gives_the_bundle_of_an_unbroken_run_here(
    data, here, kubernetes, tmp_path, capfd
):
    kubernetes.claims["photos"] = str(data)
    output = data / "evicted"
    words = there(data, output, nodes=2, kind="jobset", poll=0.3, checkpoint_minutes=0)
    waiting = start(*words, stdout=PIPE)
    wait_until(lambda: _epochs(f"{output}-checkpoints") == 1, seconds=120)
    ((_, name),) = kubernetes.objects
    assert main([*words, "--no-wait"]) == 0
    assert f"on Kubernetes already: jobset {name} (kubectl logs --prefix" in capfd.readouterr().out
    kubernetes.evict(name, 1)
    said, _ = waiting.communicate(timeout=240)
    assert waiting.returncode == 0, said
    assert f"submitted to Kubernetes: jobset {name} " in said
    logs = [kubernetes.machines[name].log(number).read_text() for number in (0, 1)]
    assert sum("workers: 2, going on after" in log for log in logs) == 1
    found = read_manifest(str(output))
    assert found.sha256 == here.sha256
    told = {"platform": "Kubernetes", "job": f"jobset {name}", "workers": 2, "device": "cpu"}
    assert found.trained_on == told
    printed = manifest_of_what_was_sent(words, capfd, output)
    printed["metadata"]["namespace"] = "photos"  # the context's, as kubectl adds it
    assert kubernetes.created == [printed]


def manifest_of_what_was_sent(words, capfd, output):
    """What --dry-run prints; the bundle is there by now, so it is put aside meanwhile."""
    for folder in (output, Path(f"{output}-checkpoints")):
        folder.rename(f"{folder}.aside")
    return manifest_of(words, capfd)


def _epochs(checkpoints):
    with suppress(FileNotFoundError):
        record = json.loads((Path(checkpoints) / "latest.json").read_text())
        return len((record["position"] or {}).get("history", ()))
    return 0


@needs_kubectl
def test_a_trainjob_gives_the_bundle_of_a_run_here(data, here, kubernetes, capfd):
    kubernetes.claims["photos"] = str(data)
    kubernetes.secrets["aws", "id"] = "nobody"
    output = data / "trainjob"
    words = there(data, output, *EVERYTHING, nodes=2, poll=0.3, trainer_version="2.0")
    assert main(words) == 0
    said = capfd.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("epoch ")] == [
        f"epoch {epoch} of 3" for epoch in (1, 2, 3)
    ]
    assert read_manifest(str(output)).sha256 == here.sha256


@needs_kubectl
def test_a_job_that_fails_is_not_tried_again_where_that_would_not_help(data, kubernetes, capfd):
    kubernetes.claims["photos"] = str(data)
    output = data / "broken"
    words = there(data, output, kind="jobset", poll=0.1, device="cuda")
    assert main(words) == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    ((_, name),) = kubernetes.objects
    assert said.startswith(
        f"captionbeam: Kubernetes ended jobset {name}: Failed: a pod ended with 2; its log says why: kubectl logs "
    )
    assert kubernetes.machines[name].log(0).read_text().count("this machine has 0 CUDA devices") == 1
    kubernetes.suspended = True  # as Kueue does with what has to wait
    assert main([*words, "--no-wait"]) == 0  # the failed one makes room
    assert len(kubernetes.created) == 2
    assert "submitted to Kubernetes" in capfd.readouterr().out


@needs_kubectl
def test_what_the_cluster_does_not_know_is_a_wrong_request(data, kubernetes, capfd):
    """A manifest for Kubeflow Trainer 2.2, where 2.0 is at work."""
    assert main(there(data, data / "b", nodes=2, trainer_version="2.2")) == 2
    assert "captionbeam: kubectl create refuses the job: " in capfd.readouterr().err
    assert not kubernetes.created


def test_kubernetes_fills_nothing_in_and_the_namespace_is_there(data, capsys):
    """``$(HOME)`` in a place stays what it is."""
    job = manifest_of(there(data, data / "$(HOME)$$(HOME)", kind="jobset", namespace="photos"), capsys)
    assert job["metadata"]["namespace"] == "photos"
    pod = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    output = pod["command"][pod["command"].index("--output") + 1]
    assert filled(output, {"HOME": "/root"}) == "/data/$(HOME)$$(HOME)"


def test_a_wrong_request_is_refused_before_anything_is_sent(data, capsys):
    assert main(there(data, data / "b", "--dry-run", volume="photos:/data")) == 2
    said = "is on no volume of the workers; expected a place below /data or a bucket's URL"
    assert said in capsys.readouterr().err
