"""The images of containers/, built by buildah as ``docker build`` builds them, and containers of them. No daemon.

Beam's official image comes from no registry: it is put together from Debian's Python, Beam's own list of packages and
Beam's boot program. All layers are kept in the cache, so that only what has changed is built again; images that
nothing leads to any more are removed. What a killed test left is removed by the next one.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from tests.builders.running.cached import cache_folder, cached
from tests.builders.running.commands import ROOT
from tests.builders.web.fetched import fetch, need

BEAM = metadata.version("apache-beam")
BEAM_MODULE = "github.com/apache/beam/sdks/v2"
BASE = f"apache/beam_python3.11_sdk:{BEAM}"
DEBIAN, PYTHON = "bookworm", (3, 11)
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
NEEDS_A_COMPILER = ("google-cloud-profiler",)  # of Beam's list; Beam itself does without it
BOOT = "/opt/apache/beam/boot"
OFFLINE = {"PIP_NO_INDEX": "1"}  # to workers: the image has all that is required, or they stop at once
# How packages are found here: images of tests are told the same.
OF_THE_NETWORK = (
    "PIP_",
    "UV_",
    "SSL_",
    "REQUESTS_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
)
OWN = "captionbeam"


def worker_image(dockerfile: str = "cpu.Dockerfile") -> str:
    """The name of a worker image, built or taken from the cache; skips the test where this machine cannot build it."""
    _check_machine()
    base = _parts_of_beams_image()
    with _lock():
        _remove_what_was_left()
        _build(base / "Dockerfile", base, BASE, ["--build-arg", f"BEAM_VERSION={BEAM}", *_of_the_network()])
        image = _build_ours(dockerfile)
        buildah("rmi", "--prune")
    return image


def _build_ours(dockerfile: str, *more: str) -> str:
    image = f"localhost/{OWN}/{dockerfile.partition('.')[0]}:test"
    _build(ROOT / "containers" / dockerfile, ROOT, image, list(more))
    return image


@dataclass(frozen=True)
class Container:
    """A container of an image: what runs in it has its files, and this machine's network and processes."""

    name: str

    def command(
        self, words: list[str], env: Mapping[str, str] | None = None, mounts: tuple[Path, ...] = ()
    ) -> list[str]:
        """How to run ``words`` in it, as root, in its working folder; ``mounts`` are folders that both have."""
        threads = {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")
        }  # sums depend on how many there are
        given = [f"--env={name}={value}" for name, value in {**threads, **(env or {})}.items()]
        shared = [f"--volume={folder}:{folder}" for folder in mounts]
        return [*_buildah(), "run", "--isolation", "chroot", *given, *shared, self.name, "--", *words]

    def run(self, *words: str, mounts: tuple[Path, ...] = ()) -> str:
        """Run a command in it; gives what it said. Fails the test where that fails."""
        done = subprocess.run(
            self.command(list(words), mounts=mounts), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}:\n{done.stdout}"
        return done.stdout


@contextmanager
def container(image: str) -> Iterator[Container]:
    """A container of ``image``, until the block ends; what is written in it does not change the image."""
    name = f"{OWN}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    buildah("from", "--pull-never", "--name", name, image)
    try:
        yield Container(name)
    finally:
        buildah("rm", name)


def buildah(*arguments: str) -> str:
    """Run buildah on the tests' own storage; gives what it wrote."""
    return fetch([*_buildah(), *arguments], "worker image", TMPDIR=str(_half_built()))


def _buildah() -> list[str]:
    storage = cache_folder() / "images"
    run = Path("/run", *storage.parts[1:])  # what holds only until the machine's next start
    return [need("buildah", "worker image"), "--root", str(storage), "--runroot", str(run),
            "--storage-driver", "overlay"]  # fmt: skip


def _half_built() -> Path:
    """Where buildah keeps layers that it is writing: gigabytes, which are left when it is killed."""
    folder = cache_folder() / "images.making"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_machine() -> None:
    for program in ("buildah", "debootstrap", "go"):
        need(program, "worker image")
    if os.geteuid() != 0:
        pytest.skip("no worker image: debootstrap and buildah are run as root here")
    system = platform.freedesktop_os_release().get("VERSION_CODENAME")
    if system != DEBIAN or sys.version_info[:2] != PYTHON:
        here = f"{system} and Python {sys.version_info[0]}.{sys.version_info[1]}"
        pytest.skip(
            f"no worker image: it is made of Debian {DEBIAN}'s packages for Python 3.11; here is {here}"
        )


def _build(dockerfile: Path, context: Path, image: str, more: list[str]) -> None:
    certificates = "/etc/ssl/certs:/etc/ssl/certs:ro"
    # the format is Docker's own, which has SHELL
    kept = ["--layers", "--force-rm", "--format", "docker", "--isolation", "chroot", "--pull-never"]
    buildah("bud", *kept, "-v", certificates, *more, "-f", str(dockerfile), "-t", image, str(context))


def _of_the_network() -> list[str]:
    given = sorted(item for item in os.environ.items() if item[0].startswith(OF_THE_NETWORK))
    return [word for name, value in given for word in ("--env", f"{name}={value}")]


@contextmanager
def _lock() -> Iterator[None]:
    with (cache_folder() / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_what_was_left() -> None:
    """Of tests that have died: containers and their mounts. Of builds: all of it, as nobody else builds now."""
    shutil.rmtree(_half_built())
    for each in json.loads(buildah("containers", "--json") or "[]") or []:
        owner, _, rest = each["containername"].partition("-")
        pid = rest.partition("-")[0]
        if owner != OWN or not pid.isdigit() or not psutil.pid_exists(int(pid)):
            buildah("rm", each["id"])


def _parts_of_beams_image() -> Path:
    """A folder with all that the stand-in for Beam's official image is built from."""

    def make(folder: Path) -> None:
        with ThreadPoolExecutor() as both:
            boot, root = both.submit(_build_boot, folder), both.submit(_unpack_debian, folder)
            boot.result(), root.result()
        listed = (_beam_sources() / "py311" / "base_image_requirements.txt").read_text().splitlines()
        kept = [line for line in listed if not line.startswith(NEEDS_A_COMPILER)]
        (folder / "requirements.txt").write_text("\n".join(kept) + "\n")

    folder = cached(f"beam-image-{BEAM}-{DEBIAN}", make)
    shutil.copy(Path(__file__).with_name("beam_sdk.Dockerfile"), folder / "Dockerfile")
    return folder


def _build_boot(folder: Path) -> None:
    fetch(["go", "install", f"{BEAM_MODULE}/python/container@v{BEAM}"], "worker image", GOBIN=str(folder))
    os.replace(folder / "container", folder / "boot")


def _unpack_debian(folder: Path) -> None:
    """Write ``root.tar``: a small Debian with Python, from where this machine's own packages come."""
    root = folder / "root"
    fetch(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", DEBIAN, str(root), _debian()],
        "worker image",
    )
    left_out = ["--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*", "--exclude=./dev/*"]
    fetch(["tar", "-C", str(root), *left_out, "-cf", str(folder / "root.tar"), "."], "worker image")
    shutil.rmtree(root)


def _debian() -> str:
    """The address that apt has for Debian's packages."""
    asked = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Identifier: Packages"]
    found = [line.split() for line in fetch(asked, "worker image").splitlines()]
    addresses = [address for name, address in found if name == DEBIAN]
    if not addresses:
        pytest.skip(f"no worker image: apt has no address for {DEBIAN}")
    return addresses[0]


def _beam_sources() -> Path:
    """The folder of Beam's source from which its own worker images are built."""
    download = ["go", "mod", "download", "-json", f"{BEAM_MODULE}@v{BEAM}"]
    return Path(json.loads(fetch(download, "worker image"))["Dir"]) / "python" / "container"
