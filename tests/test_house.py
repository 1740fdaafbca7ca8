"""The house: which package may import which, and what a light import may cost."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.builders.running.dependencies import imports

ROOT = Path(__file__).parent.parent
ORDER = ("schemas", "capmodel", "pipelines", "jobs")  # each is captionbeam.NAME
TORCH_FREE = {
    "captionbeam.capmodel.encoders.image_files",
    "captionbeam.capmodel.encoders.images",
    "captionbeam.capmodel.tokenizers",
    "captionbeam.capmodel.metrics",
    "captionbeam.capmodel.specs",
    "captionbeam.capmodel.templates",
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", [*ORDER, "tests"])
def test_a_folder_has_at_most_14_modules(package):
    folders = Counter(path.parent for path in modules(package) if path.name != "__init__.py")
    assert not {folder: count for folder, count in folders.items() if count > 14}


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package):
    allowed = ORDER[: ORDER.index(package) + 1]
    ours = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in modules(package)
        for name in imports(path)
        if name.split(".")[0] in ("captionbeam", *ORDER)
    }
    right = tuple(f"captionbeam.{name}" for name in allowed)
    assert not {(path, name) for path, name in ours if name != "captionbeam" and not name.startswith(right)}


def test_the_model_never_imports_beam():
    assert not [
        path for path in modules("capmodel") if any(n.startswith("apache_beam") for n in imports(path))
    ]


def test_pipelines_touch_the_model_in_one_room():
    """Workers that list or tokenize need no torch: the rest uses only what is free of it."""
    wrong = {
        path.parent
        for path in modules("pipelines")
        for name in imports(path)
        if name == "torch"
        or (
            name.startswith("captionbeam.capmodel.") and not any(name.startswith(free) for free in TORCH_FREE)
        )
    }
    assert wrong <= {ROOT / "pipelines/workers/processors"}


def test_fetching_bytes_knows_no_sources():
    names = {name for path in (ROOT / "pipelines" / "fetch").glob("*.py") for name in imports(path)}
    assert not [name for name in names if name.startswith("captionbeam.pipelines.sources")]


def light(statement: str, *banned: str) -> None:
    code = f"import sys; {statement}; print([n for n in {list(banned)!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_process_shard_needs_neither_beam_nor_torch():
    light("import captionbeam.pipelines.workers.shards", "apache_beam", "torch")


def test_what_is_torch_free_stays_so():
    light(f"import {', '.join(TORCH_FREE)}", "torch", "apache_beam")


def test_reading_a_store_needs_neither_beam_nor_torch():
    light("from captionbeam.schemas import Store", "apache_beam", "torch")


def test_starting_the_command_is_quick():
    light("import captionbeam.jobs.cli", "torch", "apache_beam")
