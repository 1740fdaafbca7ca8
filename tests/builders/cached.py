"""What takes minutes to fetch or to build, kept between test runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders.servers import cache_folder


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` in the cache, filled by ``make`` the first time, by one process at a time."""
    folder = cache_folder() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = folder.with_name(f"{name}.making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            os.replace(making, folder)
    return folder


def need(command: str, what: str) -> str:
    """Where ``command`` is; skips the test where it is not installed."""
    found = shutil.which(command)
    if found is None:
        pytest.skip(f"no {what}: it needs {command}, which is not installed")
    return found


def fetch(command: list[str], what: str) -> None:
    """Run a command that fetches or builds; skips the test, with its last words, where that fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines() or ["nothing said"]
        pytest.skip(f"no {what}: {' '.join(command[:4])} ... failed: {said[-1]}")


def source_distribution(name: str, version: str) -> Path:
    """The unpacked source distribution of a Python package that carries an engine's jars."""

    def make(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        fetch([*pip, "--dest", str(folder), f"{name}=={version}"], name)
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        archive.unlink()
        (unpacked,) = folder.iterdir()
        os.rename(unpacked, folder / "unpacked")

    return cached(f"{name}-{version}", make) / "unpacked"
