"""Worker images without Docker: a virtual environment with what a Dockerfile of containers/ puts into its image.

It starts from the very list of packages that Beam's official image has, and has Beam's boot program, built from its
source. What takes minutes is made once and kept; a test gets a copy of its own, by hard links.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from tests.builders.commands import ROOT
from tests.builders.fetched import fetch, need
from tests.builders.servers import cache_folder

BEAM = metadata.version("apache-beam")
MODULE = "github.com/apache/beam/sdks/v2"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions and what stands after each, lines joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "containers" / dockerfile).read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]  # type: ignore[misc]


def arguments(dockerfile: str) -> dict[str, str]:
    """The defaults of its build arguments."""
    found = (rest.partition("=") for word, rest in instructions(dockerfile) if word == "ARG")
    return {name: value for name, sign, value in found if sign}


def run_steps(dockerfile: str, image: Path, context: Path, ours: bool) -> None:
    """Run its RUN steps in ``image`` as Docker would: those up to our own code, or (``ours``) from there on.

    Our own code begins with the second COPY; ``context`` is the image's working folder.
    """
    copies = 0
    for word, rest in instructions(dockerfile):
        copies += word == "COPY"
        if (copies > 1) != ours:
            continue
        if word == "COPY":
            *names, target = rest.split()
            for name in names:
                _copy(ROOT / name, context / target)
        elif word == "RUN":
            run_in(image, ["bash", "-eo", "pipefail", "-c", rest], context, arguments(dockerfile))


def run_in(image: Path, command: list[str], folder: Path, more: Mapping[str, str] | None = None) -> str:
    """Run ``command`` with the image's Python first and none of ours on any path; gives what it said."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    environment |= {"PATH": f"{image / 'bin'}{os.pathsep}{os.environ['PATH']}", **(more or {})}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def prepared_image(dockerfile: str = "cpu.Dockerfile") -> Path:
    """The image without captionbeam, kept from run to run; skips the test where Go is missing."""
    wanted = [line for line in metadata.requires("captionbeam") or () if "extra ==" not in line]
    steps = json.dumps([instructions(dockerfile), sorted(wanted), BEAM, PYTHON])
    folder = cache_folder() / f"worker-image-{hashlib.sha256(steps.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            _make(dockerfile, folder)
            (folder / "ready").touch()
    return folder / "image"


def _make(dockerfile: str, folder: Path) -> None:
    sources, image = _beam_sources(), folder / "image"
    shutil.rmtree(image, ignore_errors=True)
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, image], check=True)
    python, packages = image / "bin" / "python", sources / f"py{PYTHON.replace('.', '')}"
    install = [uv, "pip", "install", "--quiet", "--python", python]
    subprocess.run([*install, "--no-deps", "-r", packages / "base_image_requirements.txt"], check=True)
    subprocess.run([*install, f"apache-beam[gcp]=={BEAM}"], check=True)
    fetch(["go", "install", f"{MODULE}/python/container@v{BEAM}"], "worker image", GOBIN=str(folder))
    os.replace(folder / "container", image / "boot")
    with tempfile.TemporaryDirectory() as context:
        run_steps(dockerfile, image, Path(context), ours=False)


def _beam_sources() -> Path:
    """The folder of Beam's source from which its own worker images are built."""
    download = [need("go", "worker image"), "mod", "download", "-json", f"{MODULE}@v{BEAM}"]
    return Path(json.loads(fetch(download, "worker image"))["Dir"]) / "python" / "container"


@contextmanager
def image_copy(prepared: Path) -> Iterator[Path]:
    """A copy to install into, until the block ends."""
    with tempfile.TemporaryDirectory(dir=prepared.parent) as folder:
        copy = Path(folder) / "image"
        subprocess.run(["cp", "-al", prepared, copy], check=True)
        yield copy
