"""Presets and recipes of ``captionbeam train``: files of flags, inserted before the user's own.

A preset (``presets/NAME.flags``) is a well-known decoder with its training options; a recipe
(``presets/recipes/NAME.flags``) is a complete training tuned on one data set. A file is a command line over any number
of lines, with comments after ``#``. The last of repeated options counts, so the user's options win; preset options
that then have no effect are dropped.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from captionbeam.capmodel.decoders.options import is_of_use
from captionbeam.capmodel.training.config import WORDS_ONLY, self_critical_uses
from captionbeam.jobs.options.shared import require
from captionbeam.jobs.options.training import add_groups
from captionbeam.schemas.errors import RequestError

FOLDERS = {"preset": Path(__file__).parent, "recipe": Path(__file__).parent / "recipes"}


def known(kind: str) -> list[str]:
    """Returns the sorted names of all presets or recipes."""
    return sorted(path.stem for path in FOLDERS[kind].glob("*.flags"))


def flags_of(kind: str, name: str) -> list[str]:
    """Returns the flags of a preset or recipe as words. Raises RequestError for an unknown one."""
    names = known(kind)
    require(name in names, f"there is no {kind} {name!r}; expected one of {', '.join(names)}")
    text = (FOLDERS[kind] / f"{name}.flags").read_text(encoding="utf-8")
    return shlex.split(text, comments=True)


def add_presets(parser: argparse.ArgumentParser) -> None:
    """Adds --preset and --recipe."""
    group = parser.add_argument_group("presets (docs/recipes.md); flags of your own win over theirs")
    for kind, text in (("preset", "a classic decoder"), ("recipe", "a whole training, tuned on a data set")):
        group.add_argument(f"--{kind}", metavar="NAME", help=f"{text}: {', '.join(known(kind))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for kind in FOLDERS:
        parser.add_argument(f"--{kind}")
    add_groups(parser)
    return parser


def with_presets(words: Sequence[str]) -> list[str]:
    """Returns the arguments of ``captionbeam train`` with the flags of its preset or recipe first.

    Raises RequestError for an unknown name, and if both are given.
    """
    try:
        chosen = vars(_parser().parse_known_args(list(words))[0])
    except argparse.ArgumentError:  # a value is missing or wrong: the full parser reports it
        return list(words)
    named = {kind: chosen[kind] for kind in FOLDERS if chosen[kind] is not None}
    said = " and ".join(f"--{kind} {name}" for kind, name in named.items())
    require(len(named) < 2, f"{said} each settle the decoder; expected one of the two")
    if not named:
        return list(words)
    flags = [word for kind, name in named.items() for word in flags_of(kind, name)]
    both = vars(_parser().parse_known_args([*flags, *words])[0])
    return [word for one in _split(flags) if not _is_idle(_name(one), both) for word in one] + list(words)


@contextmanager
def naming_presets(options: argparse.Namespace) -> Iterator[None]:
    """Adds the preset or recipe to a RequestError that its flags caused."""
    try:
        yield
    except RequestError as err:
        said = [text for kind in FOLDERS if (text := _blamed(kind, options, str(err)))]
        if type(err) is not RequestError or not said:
            raise
        raise RequestError(f"{err} ({' and '.join(said)})") from err


def _blamed(kind: str, options: argparse.Namespace, sentence: str) -> str:
    """Returns ``--preset NAME sets --gate scalar`` for flags in effect that ``sentence`` mentions, or an empty text."""
    name = getattr(options, kind)
    flags = [] if name is None else flags_of(kind, name)
    theirs = vars(_parser().parse_args(flags))
    holding = [one for one in _split(flags) if theirs[_name(one)] == getattr(options, _name(one))]
    about = [one for one in holding if re.search(_mention(one[0][2:]), sentence)]
    return f"--{kind} {name} sets {' and '.join(' '.join(one) for one in about)}" if about else ""


def _mention(name: str) -> str:
    """Returns a pattern that matches mentions of an option: ``--gate``, ``gate is 'x'``, ``gate 'x', not 'y'``."""
    words = name.replace("-", "[ -]")
    return rf"(?<![\w-])(--{name}(?![\w-])|{name} is |{words} \S+, not )"


def _split(flags: Sequence[str]) -> list[list[str]]:
    """Splits flags into groups of a flag and its value."""
    starts = [place for place, word in enumerate(flags) if word.startswith("--")]
    return [list(flags[start:end]) for start, end in pairwise([*starts, len(flags)])]


def _name(one: Sequence[str]) -> str:
    return one[0].removeprefix("--").replace("-", "_")


def _is_idle(name: str, chosen: Mapping[str, Any]) -> bool:
    """Whether an option has no effect, or conflicts, given all options in ``chosen``."""
    idle = {
        "doubly_stochastic": chosen["attention"] == "hard",
        "embed_dim": chosen["embeddings"] is not None,
        "val_length_penalty": chosen["val_beam"] == 1,
        "self_critical_grid_dropout": not chosen["grid_dropout"],
    }
    of_phase = name.startswith("self_critical_") and not chosen["self_critical_epochs"]
    of_words = name in WORDS_ONLY and not (chosen["epochs"] or self_critical_uses(name, chosen))
    return idle.get(name, False) or of_phase or of_words or not is_of_use(name, chosen)
