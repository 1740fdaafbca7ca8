"""The house: which package may import which, and what a light import may cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.dependencies import imports

ROOT = Path(__file__).parent.parent
ORDER = ("schemas", "capmodel", "pipelines", "jobs")
TORCH_FREE = {"capmodel.tokenizers", "capmodel.metrics"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package):
    forbidden = ORDER[ORDER.index(package) + 1 :]
    wrong = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in modules(package)
        for name in imports(path)
        if name.split(".")[0] in forbidden
    }
    assert not wrong


def test_the_model_never_imports_beam():
    assert not [
        path for path in modules("capmodel") if any(n.startswith("apache_beam") for n in imports(path))
    ]


def test_pipelines_touch_the_model_in_one_adapter():
    """Workers that list or tokenize need no torch: the rest uses only what is free of it."""
    wrong = {
        path.name
        for path in modules("pipelines")
        for name in imports(path)
        if name == "torch"
        or (name.startswith("capmodel.") and not any(name.startswith(free) for free in TORCH_FREE))
    }
    assert wrong <= {"processors.py"}


def light(statement: str, *banned: str) -> None:
    code = f"import sys; {statement}; print([n for n in {list(banned)!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_process_shard_needs_neither_beam_nor_torch():
    light("import pipelines.shards", "apache_beam", "torch")


def test_what_is_torch_free_stays_so():
    light("import capmodel.tokenizers, capmodel.metrics", "torch", "apache_beam")


def test_reading_a_store_needs_neither_beam_nor_torch():
    light("from schemas import Store", "apache_beam", "torch")


def test_starting_the_command_is_quick():
    light("import jobs.cli", "torch", "apache_beam")


def test_the_readme_has_a_line_for_every_file():
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2]
    files = {path.name for package in ORDER for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for package in ORDER for path in (ROOT / package).glob("*/__init__.py")}
    said = set(tree.split())
    assert files | folders <= said
    named = {word for line in tree.splitlines() if line.startswith("  ") for word in line.split()[:1]}
    assert {name for name in named if name.endswith(".py")} <= files
