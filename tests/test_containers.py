"""The files of containers/: linted, of the versions installed here. jobs/test_worker_images.py builds the images."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.builders.clouds.discovery import complaints, find_call
from tests.builders.running.commands import ROOT

WORKERS = ("cpu.Dockerfile", "gpu.Dockerfile")
PARAMETERS = ["job", "sources", "output", "arguments", "sdk_container_image"]
DOCKERFILES = sorted(path.name for path in (ROOT / "containers").glob("*.Dockerfile"))


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Its instructions and what stands after each, lines joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "containers" / dockerfile).read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]  # type: ignore[misc]


def arguments(dockerfile: str) -> dict[str, str]:
    """The defaults of its build arguments."""
    found = (rest.partition("=") for word, rest in instructions(dockerfile) if word == "ARG")
    return {name: value for name, sign, value in found if sign}


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_finds_nothing(dockerfile):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, ROOT / "containers" / dockerfile], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", WORKERS)
def test_versions_are_the_launchers(dockerfile):
    """Of Beam and Python to the last digit; of torch too, so that rows do not depend on where they were made."""
    found = arguments(dockerfile)
    assert found["BEAM_VERSION"] == metadata.version("apache-beam")
    assert found["TORCH_VERSION"] == metadata.version("torch").partition("+")[0]
    assert found["TORCHVISION_VERSION"] == metadata.version("torchvision").partition("+")[0]
    assert found["PYTHON_VERSION"] == "3.11"
    (base,) = (rest for word, rest in instructions(dockerfile) if word == "FROM")
    assert base == "apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION}"


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_every_image_starts_beams_boot_program(dockerfile):
    assert instructions(dockerfile)[-1] == ("ENTRYPOINT", '["/opt/apache/beam/boot"]')


@pytest.mark.parametrize("dockerfile", WORKERS)
def test_workers_start_in_a_folder_without_code(dockerfile):
    """Python looks there before it looks at what the launcher sent."""
    *_, last = (rest for word, rest in instructions(dockerfile) if word == "WORKDIR")
    assert last == "/"


def test_the_launcher_image_runs_a_file_that_is_there():
    steps = instructions("flex.Dockerfile")
    copied = [rest.split() for word, rest in steps if word == "COPY" and "--from" not in rest]
    assert copied == [["containers/flex_launcher.py", "/template/flex_launcher.py"]]
    assert ("ENV", "FLEX_TEMPLATE_PYTHON_PY_FILE=/template/flex_launcher.py") in steps
    assert (ROOT / "containers" / "flex_launcher.py").exists()


def test_the_launchers_file_hands_its_arguments_on():
    program = [sys.executable, ROOT / "containers" / "flex_launcher.py"]
    wrong = subprocess.run([*program, "--job=train"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(
        "captionbeam: the template's parameters are wrong: --job: invalid choice: 'train'"
    )
    assert len(wrong.stderr.splitlines()) == 1
    local = subprocess.run(
        [*program, "--job=encode", "--sources=docs", "--output=gs://bucket/s", "--arguments=--encoder resnet50",
         "--runner=DataflowRunner", "--project=a-project", "--region=us-central1", "--temp_location=gs://bucket/tmp"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert local.returncode == 2
    assert local.stderr.startswith(
        "captionbeam: SOURCE docs is on this machine, where workers on Dataflow do not "
    )


def test_the_templates_metadata_is_as_published():
    found = json.loads((ROOT / "containers" / "flex_template.json").read_text())
    assert complaints(found, "TemplateMetadata") == []
    assert (
        complaints({"image": "i", "sdkInfo": {"language": "PYTHON"}, "metadata": found}, "ContainerSpec")
        == []
    )
    for parameter in found["parameters"]:
        assert re.fullmatch("[a-zA-Z][a-zA-Z0-9_]*", parameter["name"])
        assert {"name", "label", "helpText"} <= parameter.keys()
        for pattern in parameter.get("regexes", ()):
            re.compile(pattern)
    assert [parameter["name"] for parameter in found["parameters"]] == PARAMETERS


def test_the_templates_rules_let_through_what_works_and_nothing_else():
    found = json.loads((ROOT / "containers" / "flex_template.json").read_text())
    rules = {parameter["name"]: parameter.get("regexes", []) for parameter in found["parameters"]}
    from captionbeam.jobs.run_on.flex import JOBS

    (choices,) = (each["enumOptions"] for each in found["parameters"] if each["name"] == "job")
    assert tuple(choice["value"] for choice in choices) == JOBS
    assert "svd" in JOBS
    assert all(re.fullmatch(rules["job"][0], job) for job in JOBS)
    assert not re.fullmatch(rules["job"][0], "train")
    assert re.fullmatch(rules["output"][0], "gs://bucket/features")
    assert not re.fullmatch(rules["output"][0], "/tmp/features")


def test_the_guides_request_to_launch_it_is_as_published():
    text = (ROOT / "docs" / "dataflow.md").read_text()
    request = json.loads(text.partition("--message-body '")[2].partition("'")[0])
    assert complaints(request, "LaunchFlexTemplateRequest") == []
    assert set(request["launchParameter"]["parameters"]) <= set(PARAMETERS)
    path = text.partition("https://dataflow.googleapis.com/")[2].split()[0]
    call = find_call("POST", path.replace("$PROJECT", "a-project").replace("$REGION", "us-central1"), {})
    assert call.id == "dataflow.projects.locations.flexTemplates.launch"
