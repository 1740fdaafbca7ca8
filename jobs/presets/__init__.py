"""Presets and recipes of ``captionbeam train``: small files of flags that stand before the user's own.

A preset (``presets/NAME.flags``) is a decoder that papers and courses know, with how it is trained; a recipe
(``presets/recipes/NAME.flags``) a whole training that was tuned on one data set. A file is a command line, on
as many lines as it likes, with comments after ``#``. Of an option given twice the last counts, so whatever
the user says himself wins; and what then would do nothing of a preset is left out.
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
from captionbeam.capmodel.training.config import WORDS_ONLY, draws_heed
from captionbeam.jobs.options.shared import require
from captionbeam.jobs.options.training import add_groups
from captionbeam.schemas.errors import RequestError

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for kind in FOLDERS:
        parser.add_argument(f"--{kind}")
    add_groups(parser)
    return parser


def with_presets(words: Sequence[str]) -> list[str]:
    """A command line behind ``captionbeam train`` with the flags of its preset or recipe before all others.

    Raises RequestError for a name that is unknown, and where both are given.
    """
    try:
        chosen = vars(_parser().parse_known_args(list(words))[0])
    except argparse.ArgumentError:  # a value is missing or wrong: the parser of all options says so
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
    """Where a request is refused for what its preset or recipe chose, say so. Raises RequestError."""
    try:
        yield
    except RequestError as err:
        said = [text for kind in FOLDERS if (text := _blamed(kind, options, str(err)))]
        if type(err) is not RequestError or not said:
            raise
        raise RequestError(f"{err} ({' and '.join(said)})") from err


def _blamed(kind: str, options: argparse.Namespace, sentence: str) -> str:
    """``--preset NAME sets --gate scalar``, of the flags that ``sentence`` is about and that hold; or nothing."""
    name = getattr(options, kind)
    flags = [] if name is None else flags_of(kind, name)
    theirs = vars(_parser().parse_args(flags))
    holding = [one for one in _split(flags) if theirs[_name(one)] == getattr(options, _name(one))]
    about = [one for one in holding if re.search(_mention(one[0][2:]), sentence)]
    return f"--{kind} {name} sets {' and '.join(' '.join(one) for one in about)}" if about else ""


def _mention(name: str) -> str:
    """A pattern of what sentences say of an option: ``--gate``, ``gate is 'x'``, ``gate 'x', not 'y'``."""
    words = name.replace("-", "[ -]")
    return rf"(?<![\w-])(--{name}(?![\w-])|{name} is |{words} \S+, not )"


def _split(flags: Sequence[str]) -> list[list[str]]:
    """Each flag with its value."""
    starts = [place for place, word in enumerate(flags) if word.startswith("--")]
    return [list(flags[start:end]) for start, end in pairwise([*starts, len(flags)])]


def _name(one: Sequence[str]) -> str:
    return one[0].removeprefix("--").replace("-", "_")


def _is_idle(name: str, chosen: Mapping[str, Any]) -> bool:
    """Whether an option would do nothing, or be in the way, beside all that is ``chosen``."""
    idle = {
        "doubly_stochastic": chosen["attention"] == "hard",
        "embed_dim": chosen["embeddings"] is not None,
        "val_length_penalty": chosen["val_beam"] == 1,
        "self_critical_grid_dropout": not chosen["grid_dropout"],
    }
    of_phase = name.startswith("self_critical_") and not chosen["self_critical_epochs"]
    of_words = name in WORDS_ONLY and not (chosen["epochs"] or draws_heed(name, chosen))
    return idle.get(name, False) or of_phase or of_words or not is_of_use(name, chosen)
