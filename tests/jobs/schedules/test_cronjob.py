"""The CronJobs of ``captionbeam schedule cronjob``: held against Kubernetes' schemas, and their commands run."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import kubernetes_validate
import psutil
import pytest
import yaml

from captionbeam.jobs import cli
from captionbeam.schemas import Store
from captionbeam.schemas.store import layout
from tests.builders.clouds.kubelet import run_job
from tests.builders.data.nights import data_files, draw, make_place

pytestmark = pytest.mark.engines
VERSIONS = ["1.31", *kubernetes_validate.utils.all_versions()[-1:]]
EVERYTHING = ["gs://b/photos", "--name", "photos", "--features", "gs://b/features",
              "--features-options=--encoder resnet50", "--captions", "/data/captions", "--bundle", "gs://b/bundle",
              "--promote", "prod", "--image", "registry/captionbeam:1", "--namespace", "captions",
              "--service-account", "captioner", "--secret", "s3-keys", "--claim", "data", "--gpus", "1",
              "--time-zone", "Europe/Berlin", "--timeout", "3600"]  # fmt: skip


def manifests(capsys, *options):
    """The nightly CronJob, and that of the upkeep."""
    capsys.readouterr()
    assert cli.main(["schedule", "cronjob", *map(str, options)]) == 0, capsys.readouterr().err
    return list(yaml.safe_load_all(capsys.readouterr().out))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("nights"), images=6)


def on_claim(folder):
    """The folder as a mounted claim."""
    return ["--image", "registry/captionbeam:1", "--claim", "data", "--mount", folder, "--retries", 1]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_is_one_that_kubernetes_knows(capsys, version):
    for manifest in manifests(capsys, *EVERYTHING):
        kubernetes_validate.validate(manifest, version, strict=True)
        manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["comand"] = ["x"]
        with pytest.raises(kubernetes_validate.ValidationError, match="'comand' was unexpected"):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_what_only_this_machine_has_is_refused(capsys):
    assert cli.main(["schedule", "cronjob", "/tmp/photos", *EVERYTHING[1:]]) == 2
    said = "'/tmp/photos' is on this machine, where no pod finds it; expected a URL, or --claim and a path below /data"
    assert said in capsys.readouterr().err


def test_kubernetes_fills_nothing_in(capsys):
    """``$(HOME)`` in an option stays what it is."""
    (nightly, _) = manifests(capsys, *EVERYTHING, "--captions-options=--prefix '$(HOME)'")
    captions = nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"]["initContainers"][1]
    assert captions["command"][captions["command"].index("--prefix") + 1] == "$$(HOME)"


def test_nights_that_overlap_and_follow(capsys, place, tmp_path):
    nightly, upkeep = manifests(capsys, "--name", "photos", *place.options(), *on_claim(place.folder))
    with ThreadPoolExecutor() as pool:  # Forbid keeps Kubernetes from this; a Job made by hand does not
        both = list(pool.map(lambda name: run_job(nightly, tmp_path / name), "ab"))
    done = dict.fromkeys(("features", "captions", "verify", "promote"), 0)
    assert [(each.succeeded, each.pods) for each in both] == [(True, [done])] * 2, both
    place.check()
    newest = layout.snapshot_ids(str(place.captions))[-1]
    assert Store.open(f"{place.captions}@prod").snapshot_id == newest

    shutil.copy(*draw(place.folder / "fresh", 1, "val"), place.photos / "new.jpg")
    before = data_files(place.captions)
    third = run_job(nightly, tmp_path / "c")
    assert third.succeeded
    totals = json.loads(third.messages["captions"])
    assert (totals["images"], totals["listing"]["new"], totals["listing"]["unchanged"]) == (1, 1, 6)
    assert data_files(place.captions).items() > before.items()
    place.check()
    assert Store.open(f"{place.captions}@prod").snapshot_id == newest + 1
    assert run_job(upkeep, tmp_path / "d").succeeded
    place.check()


def test_a_wrong_request_is_not_tried_again(capsys, place, tmp_path):
    shutil.copytree(place.photos, tmp_path / "photos")
    (nightly, _) = manifests(capsys, tmp_path / "photos", "--name", "wrong", "--captions", tmp_path / "captions",
                             "--bundle", tmp_path / "nowhere", *on_claim(tmp_path))  # fmt: skip
    ended = run_job(nightly, tmp_path / "scratch")
    assert (ended.why, ended.pods) == ("pod failure policy", [{"captions": 2}])
    assert "nowhere" in ended.messages["captions"].splitlines()[-1]


def test_what_the_options_ask_for(capsys):
    nightly, upkeep = manifests(capsys, *EVERYTHING)
    assert [each["metadata"]["name"] for each in (nightly, upkeep)] == ["photos", "photos-upkeep"]
    assert {each["metadata"]["namespace"] for each in (nightly, upkeep)} == {"captions"}
    spec = nightly["spec"]
    assert (spec["schedule"], upkeep["spec"]["schedule"]) == ("0 2 * * *", "0 12 * * 0")
    assert (spec["timeZone"], spec["concurrencyPolicy"]) == ("Europe/Berlin", "Forbid")
    job = spec["jobTemplate"]["spec"]
    assert (job["activeDeadlineSeconds"], job["backoffLimit"]) == (3600, 3)
    pod = job["template"]["spec"]
    assert pod["serviceAccountName"] == "captioner"
    assert pod["volumes"][1]["persistentVolumeClaim"] == {"claimName": "data"}
    containers = [*pod["initContainers"], *pod["containers"]]
    assert [each["name"] for each in containers] == ["features", "captions", "verify", "promote"]
    for each in containers:
        assert each["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
        assert each["volumeMounts"][1] == {"name": "data", "mountPath": "/data"}
        limits = {"memory": "8Gi"} | (
            {"nvidia.com/gpu": 1} if each["name"] in ("features", "captions") else {}
        )
        assert each["resources"]["limits"] == limits
    assert containers[3]["command"][1:] == ["store", "promote", "/data/captions", "prod", "--forward"]


def test_many_failures_are_no_failure_unless_asked(capsys, place, tmp_path):
    photos = tmp_path / "photos"
    draw(photos, 1)
    (photos / "broken.jpg").write_bytes(b"no picture")
    for options, succeeded, pods in (
        ("", True, [{"features": 0}]),
        (" --warn-failures 0.1", False, [{"features": 3}]),
    ):
        encode = f"--encoder efficientnet_lite0 --pooled{options}"
        (nightly, _) = manifests(capsys, photos, "--name", "bad", "--features", tmp_path / "features",
                                 f"--features-options={encode}", "--verify", "weekly", *on_claim(tmp_path))  # fmt: skip
        ended = run_job(nightly, tmp_path / "scratch")
        assert (ended.succeeded, ended.pods) == (succeeded, pods)
        assert json.loads(ended.messages["features"])["store"]["failed"] == 1


def kill_at_work(store, shards):
    """kill -9 of the command on ``store``, once it has committed some shards."""
    while len(layout.committed_shards(store)) < shards:
        time.sleep(0.02)
    for process in psutil.Process(os.getpid()).children(recursive=True):
        if store in process.cmdline():
            process.kill()


def test_a_container_that_is_killed_starts_again(capsys, tmp_path):
    photos, store = tmp_path / "photos", tmp_path / "features"
    drawn = draw(photos, 30)
    encode = "--encoder efficientnet_lite0 --pooled --shard-size 1 --batch-size 1"
    (nightly, _) = manifests(capsys, photos, "--name", "killed", "--features", store, f"--features-options={encode}",
                             "--verify", "weekly", *on_claim(tmp_path))  # fmt: skip
    killer = threading.Thread(target=kill_at_work, args=(str(store), 4))
    killer.start()
    ended = run_job(nightly, tmp_path / "scratch")
    killer.join()
    assert (ended.succeeded, ended.pods) == (True, [{"features": -9}, {"features": 0}])
    totals = json.loads(ended.messages["features"])
    assert totals["images"] + totals["adopted"]["rows"] == 30
    assert totals["images"] < 30
    assert sorted(Store.open(str(store)).ids()) == sorted(path.name for path in drawn)
