"""The program of the Flex Template: converts its parameters and the launcher's own flags to one of our commands.

The launcher passes everything as ``--name=value``. With ``--template_location``, one of its flags, Beam writes the
job's description there and does not wait: the service starts the job, which publishes in its last step.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from captionbeam.jobs import cli
from captionbeam.jobs.ui.terminal import one_line
from captionbeam.schemas.errors import RequestError

JOBS = ("encode", "caption", "refresh", "svd", "tokenize")


class _Parameters(argparse.ArgumentParser):
    """Raises RequestError for wrong parameters."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(f"the template's parameters are wrong: {message.removeprefix('argument ')}")


def command(arguments: Sequence[str]) -> list[str]:
    """Returns the ``captionbeam`` command line for a launcher's arguments.

    ``job`` and ``output`` are required. ``sources`` and ``arguments`` are split like shell words. All other arguments
    go to Beam. Raises RequestError.
    """
    parser = _Parameters(add_help=False, allow_abbrev=False)
    parser.add_argument("--job", required=True, choices=JOBS)
    parser.add_argument("--output", required=True)
    parser.add_argument("--sources", default="")
    parser.add_argument("--arguments", default="")
    given, rest = parser.parse_known_args(arguments)
    sources, more = (_words(name, getattr(given, name)) for name in ("sources", "arguments"))
    return [given.job, *sources, "--output", given.output, *more, *rest]


def _words(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as err:
        said = f"--{name} is {text!r} ({err})"
        raise RequestError(
            f"the template's parameters are wrong: {said}; expected words as in a shell"
        ) from err


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns the exit status."""
    try:
        words = command(arguments)
    except RequestError as err:
        print(f"captionbeam: {one_line(err)}", file=sys.stderr)
        return err.exit_status
    return cli.main(words)
