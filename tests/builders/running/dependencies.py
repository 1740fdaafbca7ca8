"""What source files import, what setup.py declares, and which distribution each module comes from."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import pytest
import setuptools

from tests.builders.running.commands import ROOT

CORE = ("schemas", "capmodel", "pipelines", "jobs", "containers")
# The files that may import the packages of an extra; other files import these inside functions only.
PLACES = {
    "benchmarks": "benchmarks",
    "docs": "docs",
    "heif": "capmodel/encoders/heif.py",
    "huggingface": "capmodel/captioners/huggingface capmodel/encoders/backbones/towers.py",
    "jxl": "capmodel/encoders/jpeg_xl.py",
    "meteor": "capmodel/metrics/meteor.py",
    "notebook": "docs",
    "s3": "schemas/storage/retrying_s3.py",
    "test": "tests",
    "timm": "capmodel/encoders/backbones/timm_models.py",
    "xgrammar": "capmodel/captioners/grammars.py",
}


def imports(path: Path) -> set[str]:
    """The modules that a file imports, at its top or inside functions, and ``module.name`` of each ``from`` import."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def normalised(requirement: str) -> str:
    """The distribution's name of ``name[extra]>=1``, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


@cache
def said() -> dict[str, Any]:
    """What setup.py gives to ``setup``."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", found.update)
        runpy.run_path(str(ROOT / "setup.py"))
    return found


def declared(*extras: str) -> set[str]:
    """The distributions that setup.py names for these extras; of none, the core's."""
    wanted = [said()["extras_require"][extra] for extra in extras] or [said()["install_requires"]]
    return {normalised(requirement) for requirements in wanted for requirement in requirements}


def modules_of(distribution: str) -> set[str]:
    """The modules that an installed distribution holds, ``google.auth.transport`` and such. Raises ImportError."""
    return {_module(path) for path in metadata.files(distribution) or () if path.suffix in (".py", ".so")}


def owner(name: str, held: Mapping[str, str]) -> str | None:
    """Whose ``name`` is by ``held`` (module -> distribution): of the longest part of it that is a module."""
    parts = name.split(".")
    candidates = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((held[candidate] for candidate in candidates if candidate in held), None)


def longest(names: Iterable[str]) -> set[str]:
    """``names`` without those that others begin with: ``a.b`` of ``a``, ``a.b``."""
    names = set(names)
    shorter = {name.rsplit(".", count)[0] for name in names for count in range(1, name.count(".") + 1)}
    return names - shorter


def _module(path: PurePath) -> str:
    parts = [*path.parts[:-1], path.name.split(".")[0]]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
