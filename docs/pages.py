"""Collects the pages of the docs site below a folder: ``python docs/pages.py build/pages``.

Copies the guides with their places in the repository, so that their links work in both, converts the notebook, and
writes the reference of commands (from their options) and of the API (each room's ``__all__``).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from captionbeam.jobs import COMMANDS
from captionbeam.jobs.cli import GROUPS, find_command
from captionbeam.jobs.options.command import Command
from captionbeam.jobs.options.command_line import reference

ROOT = Path(__file__).parent.parent
COPIED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "containers", "docs")
COPIED_KINDS = {"", ".md", ".jpg", ".png", ".svg", ".Dockerfile", ".json"}
PACKAGES = ("schemas", "capmodel", "pipelines", "jobs")


def main(folder: Path) -> None:
    """Writes all pages into ``folder``, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for page in (*copied(), *notebooks(), *commands(), *api()):
        path, text = page
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text if isinstance(text, bytes) else text.encode())


def copied() -> Iterator[tuple[str, bytes]]:
    """Yields the pages and pictures of the repository, each with its path."""
    for name in COPIED:
        for path in [ROOT / name] if (ROOT / name).is_file() else sorted((ROOT / name).rglob("*")):
            if path.is_file() and path.suffix in COPIED_KINDS:
                text = path.read_bytes()
                yield path.relative_to(ROOT).as_posix(), text.replace(b".ipynb)", b".md)")


def notebooks() -> Iterator[tuple[str, str]]:
    """Yields each notebook's cells as a page, without their outputs."""
    for path in sorted((ROOT / "docs").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        texts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
        page = "\n\n".join(f"```python\n{text}\n```" if code else text for text, code in texts)
        yield f"docs/{path.stem}.md", page


# -- commands ----------------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str]]:
    """Yields a page for each command or group of commands, and their list."""
    lines = ["# Commands", "", "| command | |", "|---|---|"]
    pages: dict[str, list[str]] = {}
    for name in COMMANDS:
        command, group = find_command(name), name.partition(" ")[0]
        if group in GROUPS and group not in pages:
            pages[group] = [f"# captionbeam {group}", "", GROUPS[group], ""]
        pages.setdefault(group, []).extend(command_page(command, 2 if group in GROUPS else 1))
        place = f"{group}.md#{anchor(name)}" if group in GROUPS else f"{group}.md"
        lines.append(f"| [`captionbeam {name}`]({place}) | {cell((command.__doc__ or '').splitlines()[0])} |")
    for group, page in pages.items():
        yield f"reference/commands/{group}.md", "\n".join(page)
    yield "reference/commands/index.md", "\n".join(lines)


def anchor(name: str) -> str:
    """Returns the anchor of a command's heading."""
    return f"captionbeam {name}".replace(" ", "-")


def command_page(command: type[Command], level: int = 1) -> list[str]:
    """Returns the lines of a command's page: examples, what it does, a table for each group of options."""
    lines = [f"{'#' * level} captionbeam {command.name}", "", *described(command.HELP)]
    for title, rows in reference(command).items():
        lines += [f"**{(title or 'options').capitalize()}**", "", "| option | default | |", "|---|---|---|"]
        for flag, unit, default, text in rows:
            shown = flag if flag == unit else f"{flag} {unit}".strip()
            lines.append(f"| `{cell(shown)}` | {cell(escaped(default))} | {cell(escaped(text))} |")
        lines.append("")
    python = f"In Python: `captionbeam.{command.__name__}`."
    return [*lines, python, ""]


def described(text: str) -> list[str]:
    """Returns a help text with its indented lines, which are commands, as blocks of code."""
    lines: list[str] = []
    for paragraph in text.strip("\n").split("\n\n"):
        code = paragraph.startswith("  ")
        body = inspect.cleandoc(paragraph) if code else paragraph
        lines += ["```", body, "```", ""] if code else [escaped(body), ""]
    return lines


def cell(text: str) -> str:
    """Returns ``text`` as it stands in a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def escaped(text: str) -> str:
    """Returns ``text`` without what Markdown would interpret."""
    for mark in "\\`*_[]<>":
        text = text.replace(mark, f"\\{mark}")
    return text


# -- API ---------------------------------------------------------------------------------------------------------------


def api() -> Iterator[tuple[str, str]]:
    """Yields a page for each package, with a section for each room that has public names."""
    shown: set[str] = set()
    for name in PACKAGES:
        package = importlib.import_module(f"captionbeam.{name}")
        lines = [f"# captionbeam.{name}", "", package.__doc__ or "", ""]
        for room in rooms(package):
            lines += section(room, package, shown)
        yield f"reference/api/{name}.md", "\n".join(lines)


def rooms(package: ModuleType) -> Iterator[ModuleType]:
    """Yields a package and those below it which name what is public, the package first."""
    found = [package.__name__]
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if info.ispkg and not info.name.endswith("toplevel"):
            found.append(info.name)
    yield from (room for room in map(importlib.import_module, sorted(found)) if getattr(room, "__all__", ()))


def section(room: ModuleType, package: ModuleType, shown: set[str]) -> list[str]:
    """Returns a room's lines: what it is for, and its names which no other section has ``shown``."""
    values = {name: public(room, name) for name in room.__all__}
    paths = [
        value.__name__ if inspect.ismodule(value) else place(value)
        for value in values.values()
        if shows(value)
    ]
    constants = [
        name for name, value in values.items() if not callable(value) and not inspect.ismodule(value)
    ]
    new = [path for path in paths if path not in shown]
    shown.update(new)
    head = [] if room is package else [f"## {room.__name__}", "", room.__doc__ or "", ""]
    more = ["Constants: " + ", ".join(f"`{name}`" for name in constants) + ".", ""] if constants else []
    return [*head, *more, *(line for path in new for line in (f"::: {path}", ""))]


def public(room: ModuleType, name: str) -> Any:
    """Returns what a room's public name stands for: one of its objects, or a module in it."""
    if hasattr(room, name):
        return getattr(room, name)
    return importlib.import_module(f"{room.__name__}.{name}")


def shows(value: Any) -> bool:
    """Says whether a value has documentation of its own: a module, class or function."""
    return inspect.ismodule(value) or inspect.isclass(value) or inspect.isfunction(value)


def place(value: Any) -> str:
    """Returns the path of a class's or function's definition."""
    return f"{value.__module__}.{value.__qualname__}"


def _folder(arguments: Iterable[str]) -> Path:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    return parser.parse_args(list(arguments)).folder


if __name__ == "__main__":
    main(_folder(sys.argv[1:]))
