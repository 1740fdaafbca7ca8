"""Inspect and maintain a store: snapshots, tags, exports, checks, cleanup."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from captionbeam.jobs.options.storage import add_storage_options
from captionbeam.jobs.store_commands import (
    compact,
    diff,
    export,
    failures,
    ls,
    purge,
    show,
    tags,
    vacuum,
    verify,
)
from captionbeam.schemas.errors import RequestError

HELP = """\
  captionbeam store ls features           # each COMMAND --help opens with a command to paste

Looks after a store of features or captions, on a local disk or any fsspec URL.
"""
BEAM = True  # retry-failures runs a pipeline


class Command(NamedTuple):
    """One command: description, help, options, and the function that runs it."""

    about: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[..., int]
    beam: bool = False


COMMANDS = {
    "ls": Command("the snapshots", ls.HELP, ls.add_options, ls.run),
    "show": Command("one snapshot", show.HELP, show.add_options, show.run),
    "failures": Command("which images failed, and why", failures.HELP, failures.add_options, failures.run),
    "diff": Command("how two snapshots differ", diff.HELP, diff.add_options, diff.run),
    "tag": Command("name a snapshot", tags.TAG_HELP, tags.add_tag_options, tags.run_tag),
    "promote": Command(
        "move a name to a snapshot", tags.PROMOTE_HELP, tags.add_promote_options, tags.run_promote
    ),
    "rollback": Command(
        "publish an earlier snapshot's content again",
        tags.ROLLBACK_HELP,
        tags.add_rollback_options,
        tags.run_rollback,
    ),
    "export": Command("live rows for other tools", export.HELP, export.add_options, export.run),
    "verify": Command("check every file", verify.HELP, verify.add_options, verify.run),
    "vacuum": Command("remove what nobody needs", vacuum.HELP, vacuum.add_options, vacuum.run),
    "compact": Command("the same rows in fewer files", compact.HELP, compact.add_options, compact.run),
    "purge": Command("take images out of every snapshot", purge.HELP, purge.add_options, purge.run),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds a subparser per command."""
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True, prog=parser.prog
    )
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=command.about,
            description=command.help,
            usage=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_options(one)
        add_storage_options(one)


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Runs the chosen command."""
    command = COMMANDS[options.command]
    if command.beam:
        return command.run(options, beam_args)
    if beam_args:
        raise RequestError(
            f"{' '.join(beam_args)} would do nothing in store {options.command}; expected to leave it out"
        )
    return command.run(options)
