"""A clean machine: the built wheel without any extra, in a new environment of each Python, away from this clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.data.images import drawn, encoded
from tests.builders.running.commands import ROOT
from tests.builders.running.dependencies import PLACES, declared

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]
VERSIONS = ("3.11", "3.12", "3.13")
EXTRAS = sorted(PLACES.keys() - {"test"})
UV = [str(Path(sys.executable).with_name("uv")), "--quiet", "--no-python-downloads"]
IMPORT_ALL = f"""
import importlib
from importlib import metadata
for path in metadata.files("captionbeam"):
    others = {[*" ".join(PLACES.values()).split(), "airflow_dag", "__main__"]!r}
    left_out = path.suffix != ".py" or any(place in str(path) for place in others)
    if not left_out:
        importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
print(*{{each.name.lower().replace("_", "-") for each in metadata.distributions()}})
"""


def interpreter(version: str) -> str | None:
    """A Python of this version that runs: on PATH, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = [*os.get_exec_path(), *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin"), reverse=True))]
    for found in filter(None, (shutil.which(f"python{version}", path=folder) for folder in folders)):
        if subprocess.run([found, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return found
    return None


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy, since a build writes beside its sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("schemas", "capmodel", "pipelines", "jobs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    built = tmp_path_factory.mktemp("wheel")
    subprocess.run([*UV, "build", "--wheel", "--out-dir", built, source], check=True)
    return next(built.glob("*.whl"))


class Machine:
    """An environment that holds the wheel alone, and a home and working folder with one picture in it."""

    def __init__(self, folder: Path, python: str, wheel: Path) -> None:
        self.environment, self.home = folder / "environment", folder / "home"
        self.home.mkdir()
        (self.home / "x.jpg").write_bytes(encoded(drawn(), "JPEG"))
        subprocess.run([*UV, "venv", "--python", python, self.environment], check=True)
        into = ["--python", self.environment / "bin" / "python"]
        subprocess.run([*UV, "pip", "install", *into, wheel], check=True)
        subprocess.run([*UV, "pip", "check", *into], check=True)

    def run(self, *command: str, status: int = 0) -> str:
        path = f"{self.environment / 'bin'}{os.pathsep}{os.defpath}"
        done = subprocess.run(
            command, cwd=self.home, env={"PATH": path, "HOME": str(self.home), "COLUMNS": "200"},
            executable=str(self.environment / "bin" / command[0]),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout
        return done.stdout


@pytest.fixture(scope="module", params=VERSIONS)
def machine(request, wheel, tmp_path_factory) -> Iterator[Machine]:
    """One after the other: an environment takes gigabytes."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} on this machine")
    folder = tmp_path_factory.mktemp("machine")
    yield Machine(folder, python, wheel)
    shutil.rmtree(folder)


def test_every_module_of_the_core_imports(machine):
    installed = set(machine.run("python", "-c", IMPORT_ALL).split())
    assert not installed & (declared("timm", "huggingface", "s3") - {"huggingface-hub"})


def test_the_demo_runs_every_job(machine):
    said = machine.run("captionbeam", "demo", "--output", "demo", "--images", "24", "--held-out", "6")
    jobs = re.findall(r"^\$ captionbeam (\w+) ", said, re.MULTILINE)
    assert jobs == ["encode", "tokenize", "train", "caption", "evaluate", "report"]
    assert re.search(r"held-out captions .*\d of 6 right", said)
    assert (machine.home / "demo" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("timm", "encode x.jpg --output features --encoder timm:resnet18"),
        ("huggingface", "caption x.jpg --output captions --captioner hf:blip"),
        ("s3", "encode s3://bucket/x --output features --encoder resnet18"),
    ],
)
def test_what_needs_an_extra_says_how_to_install_it(machine, extra, command):
    said = machine.run("captionbeam", *command.split(), status=2)
    assert f"is not installed; expected pip install '.[{extra}]' in a clone of captionbeam" in said


@pytest.mark.parametrize(
    ("version", "resolution"), [("3.11", "lowest-direct"), ("3.11", "highest"), ("3.13", "highest")]
)
def test_the_requirements_can_be_had(source, version, resolution):
    extras = [part for extra in EXTRAS for part in ("--extra", extra)]
    wanted = ["--python-version", version, "--resolution", resolution, *extras, "setup.py"]
    subprocess.run([*UV, "pip", "compile", *wanted], cwd=source, check=True, stdout=subprocess.DEVNULL)
