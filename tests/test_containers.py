"""The images of containers/: linted, of the versions that are installed here, and their steps run without Docker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.builders.commands import ROOT
from tests.builders.discovery import complaints, find_call
from tests.builders.worker_image import arguments, image_copy, instructions, prepared_image, run_in, run_steps

WORKERS = ("cpu.Dockerfile", "gpu.Dockerfile")
PARAMETERS = ["job", "sources", "output", "arguments", "sdk_container_image"]
DOCKERFILES = sorted(path.name for path in (ROOT / "containers").glob("*.Dockerfile"))


def test_these_are_all():
    assert DOCKERFILES == ["cpu.Dockerfile", "flex.Dockerfile", "gpu.Dockerfile"]


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


def test_the_launcher_image_runs_a_file_that_is_there():
    steps = instructions("flex.Dockerfile")
    copied = [rest.split() for word, rest in steps if word == "COPY" and "--from" not in rest]
    assert copied == [["containers/flex_launcher.py", "/template/flex_launcher.py"]]
    assert ("ENV", "FLEX_TEMPLATE_PYTHON_PY_FILE=/template/flex_launcher.py") in steps
    assert (ROOT / "containers" / "flex_launcher.py").exists()


def test_the_launchers_file_hands_its_arguments_on():
    program = [sys.executable, ROOT / "containers" / "flex_launcher.py"]
    wrong = subprocess.run([*program, "--job=train"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("captionbeam: the template's parameters are wrong: ")
    local = subprocess.run(
        [*program, "--job=encode", "--sources=photos", "--output=gs://b/s", "--arguments=--encoder resnet50",
         "--runner=DataflowRunner", "--project=a-project", "--temp_location=gs://b/tmp"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert local.returncode == 2
    assert local.stderr.startswith(
        "captionbeam: SOURCE photos is on this machine, where workers on Dataflow do not "
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
    from jobs.launching.flex import JOBS

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


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_steps_of_the_worker_images_make_a_worker(tmp_path):
    """From the packages of Beam's official image on; both Dockerfiles' steps are the same but for a check of CUDA."""
    with image_copy(prepared_image("cpu.Dockerfile")) as image:
        for dockerfile in WORKERS:
            context = tmp_path / dockerfile
            context.mkdir()
            for name in ("setup.py", "pyproject.toml"):
                (context / name).write_bytes((ROOT / name).read_bytes())
            run_steps(dockerfile, image, context, ours=True)
        asked = "import jobs.cli, pipelines.processors, torch, s3fs; print(jobs.__file__); print(torch.__version__)"
        where, version = run_in(image, ["python", "-c", asked], tmp_path).splitlines()
        assert where.startswith(str(image))
        assert version.partition("+")[0] == metadata.version("torch").partition("+")[0]
        assert "captionbeam" in run_in(image, ["captionbeam", "--help"], tmp_path)


def test_both_worker_images_are_built_by_the_same_steps():
    cpu, gpu = (
        [step for step in instructions(dockerfile) if step[0] in ("ARG", "FROM", "COPY", "RUN", "WORKDIR")]
        for dockerfile in WORKERS
    )
    assert cpu[:-1] == gpu[:-1]
    assert gpu[-1][1].startswith(cpu[-1][1])
    assert "torch.version.cuda" in gpu[-1][1].removeprefix(cpu[-1][1])
