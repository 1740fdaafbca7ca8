"""Presets and recipes of ``captionbeam train``: files of flags, used where the user names no value.

A preset (``presets/NAME.flags``) is a well-known decoder with its training options; a recipe
(``presets/recipes/NAME.flags``) is a complete training tuned on one data set. A file is a command line over any number
of lines, with comments after ``#``.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from captionbeam.jobs.options.command import Command
from captionbeam.jobs.options.command_line import read_flags
from captionbeam.schemas.errors import RequestError

FOLDERS = {"preset": Path(__file__).parent, "recipe": Path(__file__).parent / "recipes"}


def known(kind: str) -> list[str]:
    """Returns the sorted names of all presets or recipes."""
    return sorted(path.stem for path in FOLDERS[kind].glob("*.flags"))


def flags_of(kind: str, name: str) -> list[str]:
    """Returns the flags of a preset or recipe as words. Raises RequestError for an unknown one."""
    if name not in (names := known(kind)):
        raise RequestError(f"there is no {kind} {name!r}; expected one of {', '.join(names)}")
    text = (FOLDERS[kind] / f"{name}.flags").read_text(encoding="utf-8")
    return shlex.split(text, comments=True)


def preset_values(command: type[Command], values: dict[str, Any]) -> dict[str, Any]:
    """Returns ``values`` with those of their preset or recipe where they have none.

    Preset values that would contradict the user's are left out. Raises RequestError for an unknown name, and if both
    are given.
    """
    named = {kind: values[kind] for kind in FOLDERS if values.get(kind) is not None}
    if len(named) == 2:
        both = " and ".join(f"--{kind} {name}" for kind, name in named.items())
        raise RequestError(f"{both} each choose the decoder; expected one of the two")
    found: dict[str, Any] = {}
    for kind, name in named.items():
        found = read_flags(command, flags_of(kind, name))
    if values.get("attention") == "hard":
        found.pop("doubly_stochastic", None)
    if values.get("embeddings") is not None:  # the file decides
        found.pop("embed_dim", None)
    return {**found, **values}
