"""The script of ``captionbeam schedule cloud-scheduler``: what Google gets, field by field, and its launches run."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import urlsplit

import pytest

from captionbeam.jobs import cli
from tests.builders.clouds.discovery import complaints, find_call
from tests.builders.clouds.gcloud import install, kept, run_script
from tests.builders.running.commands import ROOT

TEMPLATE = json.loads((ROOT / "containers" / "flex_template.json").read_text())
GOOGLE = ["--project", "my-project", "--region", "europe-west4", "--template", "gs://b/templates/captionbeam.json",
          "--temp", "gs://b/tmp", "--image", "europe-west4-docker.pkg.dev/my-project/captionbeam/cpu:1",
          "--service-account", "me@my-project.iam.gserviceaccount.com"]  # fmt: skip
NIGHT = ["gs://b/my photos", "gs://b/more.zip", "--name", "photos", "--features", "gs://b/features",
         "--features-options=--encoder efficientnet_lite0", "--captions", "gs://b/captions", "--bundle",
         "gs://b/bundle", "--captions-options=--beam 2 --prefix 'it'\\''s a'", "--promote", "prod"]  # fmt: skip


@pytest.fixture
def gcloud(tmp_path):
    return install(tmp_path / "gcloud")


def printed(capsys, *arguments):
    capsys.readouterr()
    assert cli.main(["schedule", "cloud-scheduler", *map(str, arguments)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def applied(capsys, gcloud, *arguments):
    """Cloud Scheduler's jobs and Cloud Run's, once the script has run."""
    done = run_script(printed(capsys, *arguments, *GOOGLE), gcloud)
    assert done.returncode == 0, done.stdout + done.stderr
    return kept(gcloud, "scheduler"), kept(gcloud, "run")


def body(job):
    """What Cloud Scheduler would send."""
    return json.loads(base64.b64decode(job["httpTarget"]["body"]))


def test_what_google_gets_is_what_its_services_describe(capsys, gcloud):
    for _ in range(2):  # again replaces
        scheduled, tasks = applied(capsys, gcloud, *NIGHT, "--time-zone", "Europe/Berlin")
        names = ("photos-features", "photos-captions", "photos-promote", "photos-upkeep")
        assert scheduled.keys() == {*names}
        assert tasks.keys() == {*names[2:]}
    times = [(scheduled[name]["schedule"], scheduled[name]["timeZone"]) for name in names]
    assert times == [
        (cron, "Europe/Berlin") for cron in ("0 2 * * *", "0 6 * * *", "0 10 * * *", "0 12 * * 0")
    ]
    for job in scheduled.values():
        assert complaints(job, "Job", "cloudscheduler.v1") == []
    for task in tasks.values():
        assert complaints(task, "Job", "run.v1") == []
        assert complaints({**task, "spec": {"x": 1}}, "Job", "run.v1")
    for name in names[:2]:
        assert complaints(body(scheduled[name]), "LaunchFlexTemplateRequest") == []
        call = find_call("POST", urlsplit(scheduled[name]["httpTarget"]["uri"]).path, {})
        assert (call.id, call.body) == (
            "dataflow.projects.locations.flexTemplates.launch",
            "LaunchFlexTemplateRequest",
        )
    for name in names[2:]:
        call = find_call("POST", urlsplit(scheduled[name]["httpTarget"]["uri"]).path, {}, "run.v2")
        assert call.id == "run.projects.locations.jobs.run"
        assert complaints(body(scheduled[name]), call.body, "run.v2") == []


def test_each_step_has_its_own_time(capsys, gcloud):
    times = {"features": "0 1 * * *", "captions": "0 4 * * *", "promote": "0 7 * * *", "upkeep": "0 9 1 * *"}
    options = ["--cron", "--captions-cron", "--promote-cron", "--upkeep-cron"]
    given = [word for pair in zip(options, times.values(), strict=True) for word in pair]
    scheduled, _ = applied(capsys, gcloud, *NIGHT, *given)
    assert {name.removeprefix("photos-"): job["schedule"] for name, job in scheduled.items()} == times


def test_the_launches_are_what_the_template_takes(capsys, gcloud):
    scheduled, _ = applied(capsys, gcloud, *NIGHT)
    declared = {each["name"]: each for each in TEMPLATE["parameters"]}
    found = [body(scheduled[f"photos-{step}"])["launchParameter"] for step in ("features", "captions")]
    for launch in found:
        given = launch["parameters"]
        assert given.keys() <= declared.keys()
        assert {name for name, each in declared.items() if not each.get("isOptional")} <= given.keys()
        for name, value in given.items():
            assert all(re.fullmatch(pattern, value) for pattern in declared[name].get("regexes", []))
    assert [launch["jobName"] for launch in found] == ["photos-features", "photos-captions"]
    assert [launch["parameters"] for launch in found] == [
        {
            "job": "refresh",
            "sources": "'gs://b/my photos' gs://b/more.zip",
            "output": "gs://b/features",
            "arguments": "--encoder efficientnet_lite0",
        },
        {
            "job": "refresh",
            "output": "gs://b/captions",
            "arguments": "--features gs://b/features --bundle gs://b/bundle --beam 2 --prefix 'it'\"'\"'s a'",
        },
    ]


def test_every_value_is_quoted_for_the_shell(capsys, gcloud):
    script = printed(capsys, *NIGHT, *GOOGLE, "--time-zone", "a; touch b")
    assert "--time-zone='a; touch b'" in script


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["/photos", *NIGHT[2:]], "'/photos' is on this machine, where no worker finds it; expected a URL"),
        ([*NIGHT, "--features", "s3://b/features"], "the store 's3://b/features' is not on gs://"),
    ],
)
def test_what_google_cannot_reach_is_refused(capsys, arguments, sentence):
    assert cli.main(["schedule", "cloud-scheduler", *GOOGLE, *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_line_break_in_an_option_is_no_command(capsys, gcloud):
    script = printed(capsys, *NIGHT[:-2], "--captions-options=--prefix 'a\ntouch b'", *GOOGLE)
    assert not [line for line in script.splitlines() if line.startswith("touch")]
    assert run_script(script, gcloud).returncode == 0


def test_the_script_again_updates_what_is_there_and_deletes_nothing(capsys, gcloud):
    applied(capsys, gcloud, *NIGHT)
    scheduled, _ = applied(capsys, gcloud, *NIGHT, "--cron", "30 1 * * *", "--retries", "5")
    features = scheduled["photos-features"]
    assert (features["schedule"], features["retryConfig"]["retryCount"]) == ("30 1 * * *", 5)
    assert len(scheduled) == 4
    assert " delete " not in printed(capsys, *NIGHT, *GOOGLE)
