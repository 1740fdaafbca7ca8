"""Every import is declared in setup.py: the core's in ``install_requires``, an extra's in that extra."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from tests.builders.running.commands import ROOT
from tests.builders.running.dependencies import (
    CORE,
    PLACES,
    declared,
    imports,
    longest,
    modules_of,
    owner,
    said,
)

OURS = {"captionbeam", *CORE, "tests", "benchmarks", *(path.stem for path in ROOT.glob("benchmarks/*.py"))}
FOREIGN = {"airflow", "kubernetes"}  # of files that run in environments of their own
NAMES = {
    "mosaicml-streaming": "streaming",
    "pillow-heif": "pillow_heif",
    "pillow-jxl-plugin": "pillow_jxl",
}  # what is imported, where it is not the distribution's name
USED_BY_OTHERS = {"tensorboard", "num2words", "sentencepiece"}  # by torch, by transformers


@cache
def held() -> dict[str, str]:
    """Module -> the distribution that has it, for all that are declared."""
    found: dict[str, str] = {}
    for name in declared() | declared(*PLACES):
        try:
            modules = modules_of(name)
        except metadata.PackageNotFoundError:
            modules = {NAMES.get(name, name)}
        found.update(dict.fromkeys(modules, name))
    return found


def files_of(places: str) -> list[Path]:
    found = [ROOT / place for place in places.split()]
    return [path for one in found for path in ([one] if one.suffix else sorted(one.rglob("*.py")))]


def core_files() -> list[Path]:
    of_extras = {path for place in PLACES.values() for path in files_of(place)}
    return [path for place in CORE for path in files_of(place) if path not in of_extras]


def others(path: Path) -> set[str]:
    """What a file imports that is neither Python's nor ours."""
    known = sys.stdlib_module_names | OURS | FOREIGN
    return {name for name in longest(imports(path)) if name.split(".")[0] not in known}


def undeclared(files: list[Path], allowed: set[str]) -> set[tuple[str, str]]:
    return {
        (path.relative_to(ROOT).as_posix(), name)
        for path in files
        for name in others(path)
        if owner(name, held()) not in allowed
    }


def test_what_the_core_imports_is_declared():
    assert not undeclared(core_files(), declared())


@pytest.mark.parametrize("extra", PLACES)
def test_what_the_files_of_an_extra_import_is_declared(extra):
    assert not undeclared(files_of(PLACES[extra]), declared() | declared(extra))


@pytest.mark.parametrize("extra", sorted(PLACES.keys() - {"docs", "notebook", "test"}))
def test_what_an_extra_declares_is_imported(extra):
    used = {owner(name, held()) for path in files_of(PLACES[extra]) for name in others(path)}
    assert declared(extra) - USED_BY_OTHERS <= used


def test_what_the_core_declares_is_imported():
    used = {owner(name, held()) for path in core_files() for name in others(path)}
    assert declared() - used == USED_BY_OTHERS & declared()


def test_every_extra_has_its_place():
    assert said()["extras_require"].keys() == PLACES.keys()


def test_the_core_imports_without_any_extra():
    of_extras = declared(*PLACES.keys() - {"test"}) - declared()
    absent = {module.split(".")[0] for module, name in held().items() if name in of_extras}
    names = [
        ".".join(["captionbeam", *path.relative_to(ROOT).with_suffix("").parts])
        for path in core_files()
        if path.parent.name not in ("containers", "toplevel")
        and not FOREIGN & {name.split(".")[0] for name in imports(path)}
    ]
    code = (
        f"import importlib, sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
