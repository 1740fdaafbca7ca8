"""``captionbeam schedule``: what it prints, and what it refuses."""

from __future__ import annotations

import ast

import pytest

from captionbeam.jobs import cli

STORES = ["gs://b/photos", "--name", "photos", "--features", "gs://b/features",
          "--features-options=--encoder efficientnet_lite0 --pooled"]  # fmt: skip
CAPTIONS = ["--captions", "gs://b/captions", "--bundle", "gs://b/bundle", "--promote", "prod"]
IMAGE = ["--image", "registry/captionbeam:1"]
GOOGLE = ["--project", "p", "--region", "r", "--template", "gs://b/t.json", "--temp", "gs://b/tmp",
          "--service-account", "me@p.iam.gserviceaccount.com"]  # fmt: skip
OF = {"airflow": [], "cronjob": IMAGE, "cloud-scheduler": [*IMAGE, *GOOGLE]}


def printed(capsys, scheduler, *arguments):
    capsys.readouterr()
    assert cli.main(["schedule", scheduler, *arguments, *OF[scheduler]]) == 0
    return capsys.readouterr().out


def settings(source):
    """SCHEDULE of a file of DAGs, read without Airflow."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and node.target.id == "SCHEDULE":
            return ast.literal_eval(node.value)
    raise AssertionError("no SCHEDULE")


def test_the_steps_of_a_night(capsys):
    said = settings(printed(capsys, "airflow", *STORES, *CAPTIONS, "--captions-options=--prefix 'a b'"))
    assert said["nightly"] == {
        "features": ["refresh", "gs://b/photos", "--output", "gs://b/features", "--encoder", "efficientnet_lite0",
                     "--pooled"],
        "captions": ["refresh", "--features", "gs://b/features", "--output", "gs://b/captions", "--bundle",
                     "gs://b/bundle", "--prefix", "a b"],
        "verify": ["store", "verify", "gs://b/captions"],
        "promote": ["store", "promote", "gs://b/captions", "prod", "{{ ti.xcom_pull('captions')['snapshot'] }}",
                    "--forward"],
    }  # fmt: skip
    assert said["upkeep"] == {
        "vacuum_features": ["store", "vacuum", "gs://b/features", "--keep", "14"],
        "vacuum_captions": ["store", "vacuum", "gs://b/captions", "--keep", "14"],
        "verify_features": ["store", "verify", "gs://b/features"],
        "verify_captions": ["store", "verify", "gs://b/captions"],
    }
    assert said["bulk"]["captions"][:3] == ["caption", "--output", "{{ params.output }}"]


def test_an_endpoint_captions_the_sources_themselves(capsys):
    asked = "--captioner openai:http://vlm:8000/v1 --model m --prompt 'What is it?'"
    said = settings(
        printed(capsys, "airflow", *STORES, "--captions", "gs://b/captions", f"--captions-options={asked}")
    )
    assert said["nightly"]["captions"] == [
        "refresh", "gs://b/photos", "--output", "gs://b/captions", "--captioner", "openai:http://vlm:8000/v1",
        "--model", "m", "--prompt", "What is it?",
    ]  # fmt: skip


def test_paths_are_made_absolute_and_what_airflow_fills_in_stays(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = settings(printed(capsys, "airflow", "photos", "{{ var.value.more }}", *STORES[1:]))
    assert said["nightly"]["features"][1:3] == [str(tmp_path / "photos"), "{{ var.value.more }}"]


def test_storage_options_reach_every_step(capsys):
    options = ["--storage-options", '{"gs": {"requester_pays": true}}']
    said = settings(printed(capsys, "airflow", *STORES, *CAPTIONS, *options))
    steps = [step for dag in ("nightly", "upkeep", "bulk") for step in said[dag].values()]
    assert len(steps) == 10
    assert all(step[-2:] == options for step in steps)
    assert cli.main(["schedule", "airflow", *STORES, "--storage-options", '{"gs": {"requester": 1}}']) == 2
    assert "did you mean 'requester_pays'?" in capsys.readouterr().err


WRONG = [
    (["x", "--name", "n"], "no store is named; expected --features, --captions or both"),
    (["--name", "n", "--features", "f"], "no source is named"),
    ([*STORES, "--bundle", "b"], "--bundle needs --captions"),
    ([*STORES, "--captions", "c"], "and --bundle or --captioner (for captions); expected exactly one"),
    (STORES[:5], "needs one of --encoder (for features) and --bundle"),
    (
        [*STORES[:5], "--features-options=--encoder resnet18 --typo"],
        "`captionbeam refresh gs://b/photos --output",
    ),
    ([*STORES[:5], "--features-options=--encoder 'x"], "is no command line: No closing quotation"),
    (
        [*STORES[:5], "--features-options=--encoder resnet18 --dry-run"],
        "and --dry-run publish nothing; expected none",
    ),
    ([*STORES, "--promote", "3"], "'3' is no name of a tag"),
    ([*STORES, "--keep", "0"], "--keep is 0; expected a whole number above 0"),
]


@pytest.mark.parametrize("scheduler", OF)
@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=lambda value: str(value)[-40:])
def test_what_a_job_would_refuse_is_refused_when_it_is_scheduled(capsys, scheduler, arguments, sentence):
    assert cli.main(["schedule", scheduler, *arguments, *OF[scheduler]]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.out == ""


@pytest.mark.parametrize("scheduler", OF)
def test_each_help_opens_with_a_command_that_can_be_pasted(capsys, scheduler):
    import shlex

    with pytest.raises(SystemExit):
        cli.main(["schedule", scheduler, "--help"])
    command = capsys.readouterr().out.strip().partition("\n\n")[0].replace("\\\n", " ")
    words = shlex.split(command.partition(">")[0].partition("|")[0])
    assert words[:3] == ["captionbeam", "schedule", scheduler]
    assert cli.main(words[1:]) == 0


NOWHERE = [
    ([*STORES, "--storage-options", "/tmp/o.json"], "'/tmp/o.json' is on this machine"),
    (
        [*STORES[:5], "--features-options=--encoder resnet50 --weights /tmp/w.pt"],
        "'/tmp/w.pt' is on this machine",
    ),
    (
        [*STORES[:5], "--features-options=--encoder resnet50 --inventory /tmp/i"],
        "'/tmp/i' is on this machine",
    ),
    (["gs://b/{{ ds }}", *STORES[1:]], "'gs://b/{{ ds }}' holds {{, which only Airflow fills in"),
]


@pytest.mark.parametrize("scheduler", ["cronjob", "cloud-scheduler"])
@pytest.mark.parametrize(("arguments", "sentence"), NOWHERE)
def test_what_only_this_machine_has_is_refused_in_options_too(capsys, scheduler, arguments, sentence):
    assert cli.main(["schedule", scheduler, *arguments, *OF[scheduler]]) == 2
    assert sentence in capsys.readouterr().err


def test_what_airflow_would_take_for_a_template_is_refused(capsys):
    assert cli.main(["schedule", "airflow", "gs://b/{#x", *STORES[1:]]) == 2
    assert "holds {#, which Airflow takes for a template's" in capsys.readouterr().err


def test_captions_without_features(capsys):
    said = settings(printed(capsys, "airflow", *STORES[:3], *CAPTIONS, "--verify", "weekly"))
    assert list(said["nightly"]) == ["captions", "promote"]
    assert said["nightly"]["captions"][:2] == ["refresh", "gs://b/photos"]


def test_features_alone_have_nothing_to_caption_with(capsys):
    said = settings(printed(capsys, "airflow", *STORES, "--promote", "prod"))
    assert (list(said["nightly"]), said["bulk"]) == (["features", "verify", "promote"], {})
    assert said["nightly"]["promote"][4] == "{{ ti.xcom_pull('features')['snapshot'] }}"
