"""What takes minutes to fetch or to build, kept between test runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.builders.web.fetched import fetch


def cache_folder() -> Path:
    """Where what takes minutes to build is kept between test runs."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "captionbeam"


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
