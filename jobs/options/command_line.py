"""The command line of a Command: its dataclass's options as flags, help by groups, and the flags for Beam.

tyro 1.0 and cyclopts 5.5 were tried on ``train`` (120 options): they take 0.4 to 0.7 s for ``--help`` where this takes
0.1 s, and neither tells Beam's flags from unknown ones.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import os
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field
from typing import Any, TypeVar

from captionbeam.jobs.options.command import Command
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import Option, flag_of, groups_of, is_switch, options_of, read

C = TypeVar("C", bound=Command)
WIDTH = 110
SCREEN = 40
"""A command with more options shows the common ones in ``--help``, all in ``--help-all``."""
SYNONYMS = {
    "--batch": "--batch-size",
    "--bs": "--batch-size",
    "--epoch": "--epochs",
    "--gpu": "--gpus",
    "--lr": "--learning-rate",
    "--max-tokens": "--max-length",
    "--model": "--encoder",
    "--num-workers": "--workers",
    "--out": "--output",
    "--size": "--image-size",
}
BEAM_OPTIONS = "apache_beam/options/pipeline_options.py"


def parse_command(command: type[C], words: Sequence[str]) -> C:
    """Returns the command that the arguments ``words`` describe. Raises RequestError, SystemExit after ``--help``."""
    values, beam_args = parse_values(command, words)
    if command.takes_pipeline_options:
        values["pipeline_options"] = tuple(beam_args)
    return command.from_command_line(values)


def parse_values(command: type[Command], words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the values of the options that ``words`` name, and the flags for Beam. Raises RequestError."""
    parser = build_parser(command)
    if wanted := {"-h", "--help", "--help-all"} & set(words):
        print(help_text(command, all_options="--help-all" in wanted), end="")
        raise SystemExit(0)
    own, beam_args = _separate(command, parser, words)
    values = _read_values(command, parser, own)
    for field, found in options_of(command):
        if field.name not in values and field.default is MISSING:
            raise RequestError(f"{_shown(field, found)} is missing; expected {found.help.partition('. ')[0]}")
    return values, beam_args


def read_flags(command: type[Command], words: Sequence[str]) -> dict[str, Any]:
    """Returns the values of the command's options in ``words``, some of its flags. Raises RequestError."""
    return _read_values(command, build_parser(command), words)


def _read_values(
    command: type[Command], parser: argparse.ArgumentParser, words: Sequence[str]
) -> dict[str, Any]:
    given = vars(parser.parse_args(list(words)))
    return {
        field.name: _value(field, found, given[field.name])
        for field, found in options_of(command)
        if field.name in given
    }


def _value(field: Field[Any], found: Option, given: Any) -> Any:
    if isinstance(given, list):
        return tuple(read(field, found, one) for one in given)
    return given if isinstance(given, bool) else read(field, found, given)


def _shown(field: Field[Any], found: Option) -> str:
    return found.kind.unit if found.positional else flag_of(field.name, found)


class _Parser(argparse.ArgumentParser):
    """Raises RequestError for a wrong command line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(f"{message.removeprefix('argument ')} ({self.prog} --help shows what is expected)")


class _Formatter(argparse.HelpFormatter):
    """Wraps by the terminal's width, at most ``WIDTH``; paragraphs with indented lines, as examples, are kept."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(_filled(part, width) for part in text.rstrip("\n").split("\n\n"))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _filled(text, width).splitlines()


def _filled(paragraph: str, width: int) -> str:
    """Wraps ``paragraph``, but within no name or flag, so that each can be copied."""
    if "\n " in f"\n{paragraph}":
        return paragraph
    words = " ".join(paragraph.split())
    return textwrap.fill(words, width, break_long_words=False, break_on_hyphens=False)


def build_parser(command: type[Command], all_options: bool = True) -> argparse.ArgumentParser:
    """Returns a parser whose result has only the options that the command line names."""
    parser = _Parser(
        prog=f"captionbeam {command.name}",
        usage=argparse.SUPPRESS,
        description=command.HELP,
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    fits = sum(1 for _ in options_of(command)) <= SCREEN
    every = argparse.SUPPRESS if fits else "show this help with all options, and exit"
    parser.add_argument("--help-all", action="store_true", help=every)
    for title, entries in groups_of(command).items():
        shown = [entry for entry in entries if all_options or entry[1].common or entry[0].default is MISSING]
        group: Any = parser.add_argument_group(title) if title and shown else parser
        for entry in shown:
            _add(group, *entry)
    return parser


def _add(group: Any, field: Field[Any], found: Option) -> None:
    text = found.help.replace("%", "%%") + _default_text(field, found)
    if found.positional:
        many = isinstance(field.default, tuple) or found.repeated
        number = (
            ("+" if field.default is MISSING else "*") if many else ("?" if field.default is None else None)
        )
        group.add_argument(field.name, nargs=number, metavar=found.kind.unit, help=text)
        return
    flag = flag_of(field.name, found)
    if is_switch(field):
        group.add_argument(flag, dest=field.name, action="store_true", help=text)
        group.add_argument(f"--no-{flag[2:]}", dest=field.name, action="store_false", help=argparse.SUPPRESS)
        return
    more = (
        {"action": "extend", "nargs": "+"}
        if found.several
        else {"action": "append"}
        if found.repeated
        else {}
    )
    group.add_argument(flag, dest=field.name, metavar=found.kind.unit, help=text, **more)


def _default_text(field: Field[Any], found: Option) -> str:
    """Returns the default for the help text, unless there is none or the help text has it."""
    default = field.default
    if (
        default is MISSING
        or default is None
        or is_switch(field)
        or default in ((), "")
        or "(default" in found.help
    ):
        return ""
    return f" (default {default:,g})" if isinstance(default, float | int) else f" (default {default})"


def help_text(command: type[Command], all_options: bool = False) -> str:
    """Returns the help: all options, or those of one screen."""
    count = sum(1 for _ in options_of(command))
    common = count > SCREEN and not all_options
    shown = build_parser(command, all_options=not common).format_help()
    return f"{shown}\nThe most used options; --help-all shows all {count}.\n" if common else shown


def _separate(
    command: type[Command], parser: argparse.ArgumentParser, words: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Separates our arguments from Beam's flags and their values. Raises RequestError for flags of neither."""
    own, others, actions = [], [], parser._option_string_actions
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag = word.partition("=")[0]
        if f"-{flag}" in actions and not flag.startswith("--"):
            raise RequestError(
                f"unknown option {flag!r} of captionbeam {command.name}; did you mean -{flag}?"
            )
        if not word.startswith("--") or word == "--" or flag in actions:
            own.append(word)
            if flag in actions and "=" not in word and actions[flag].nargs != 0 and rest:
                own.append(rest.pop(0))
            continue
        check_known(command, flag, actions)
        others.append(word)
        if "=" not in word and rest and not rest[0].startswith("--") and _takes_value(flag):
            others.append(rest.pop(0))
    return own, others


def check_known(command: type[Command], flag: str, ours: Iterable[str]) -> None:
    """Raises RequestError for a flag that is neither the command's nor, where it takes Beam's, one of Beam's."""
    beam = command.takes_pipeline_options and f"'{flag}'" in _beam_source()
    if beam and flag != "--dry_run":
        return
    known = [name for name in ours if not name.startswith("--no-")]
    likely = SYNONYMS.get(flag, "")
    near = [likely] if likely in known else []
    if not likely:
        near = difflib.get_close_matches(flag.replace("_", "-"), sorted(known), 1)
    hint = f"; did you mean {near[0]}?" if near else f"; captionbeam {command.name} --help-all lists all"
    raise RequestError(f"unknown option {flag!r} of captionbeam {command.name}{hint}")


def _beam_source() -> str:
    """Returns the text of Beam's module of options: reading it is much faster than importing it."""
    found = importlib.util.find_spec("apache_beam")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = os.path.join(folder, "options", "pipeline_options.py")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                return file.read()
    return ""


def _takes_value(flag: str) -> bool:
    from captionbeam.pipelines.runners.flags import takes_value

    return takes_value(flag)


def reference(command: type[Command]) -> Mapping[str, list[tuple[str, str, str, str]]]:
    """Returns the table of each group for the docs: (flag, unit, default, help)."""
    tables = {}
    for title, entries in groups_of(command).items():
        tables[title] = [
            (
                _shown(field, found),
                "" if is_switch(field) else found.kind.unit,
                _default_text(field, found).removeprefix(" (default ").removesuffix(")"),
                found.help,
            )
            for field, found in entries
        ]
    return tables
