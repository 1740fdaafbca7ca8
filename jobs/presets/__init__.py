"""Presets and recipes of ``captionbeam train``: small files of flags that stand before the user's own.

A preset (``presets/NAME.flags``) is a decoder that papers and courses know, with how it is trained; a recipe
(``presets/recipes/NAME.flags``) a whole training that was tuned on one data set. A file is a command line, on
as many lines as it likes, with comments after ``#``. Of an option given twice the last counts, so whatever
the user says himself wins.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from jobs.options import require

FOLDERS = {"preset": Path(__file__).parent, "recipe": Path(__file__).parent / "recipes"}


def known(kind: str) -> list[str]:
    """The names of all presets, or recipes, sorted."""
    return sorted(path.stem for path in FOLDERS[kind].glob("*.flags"))


def flags_of(kind: str, name: str) -> list[str]:
    """What a preset or recipe stands for, as words of a command line. Raises RequestError for an unknown one."""
    names = known(kind)
    require(name in names, f"there is no {kind} {name!r}; expected one of {', '.join(names)}")
    text = (FOLDERS[kind] / f"{name}.flags").read_text(encoding="utf-8")
    return shlex.split(text, comments=True)


def add_presets(parser: argparse.ArgumentParser) -> None:
    """--preset and --recipe."""
    group = parser.add_argument_group("presets (docs/recipes.md); flags of your own win over theirs")
    for kind, text in (("preset", "a classic decoder"), ("recipe", "a whole training, tuned on a data set")):
        group.add_argument(f"--{kind}", metavar="NAME", help=f"{text}: {', '.join(known(kind))}")


def with_presets(words: Sequence[str]) -> list[str]:
    """A command line behind ``captionbeam train`` with the flags of its preset or recipe before all others.

    Raises RequestError for a name that is unknown, and where both are given.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for kind in FOLDERS:
        parser.add_argument(f"--{kind}")
    try:
        chosen = vars(parser.parse_known_args(list(words))[0])
    except argparse.ArgumentError:  # a name is missing: the parser of all options says so
        return list(words)
    named = {kind: name for kind, name in chosen.items() if name is not None}
    said = " and ".join(f"--{kind} {name}" for kind, name in named.items())
    require(len(named) < 2, f"{said} each settle the decoder; expected one of the two")
    return [word for kind, name in named.items() for word in flags_of(kind, name)] + list(words)
