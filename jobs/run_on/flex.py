"""The program of the Flex Template: its parameters, and what Google's launcher adds, become one of our commands.

The launcher passes everything as ``--name=value``. With ``--template_location``, which is among it, Beam writes the
job's description there and nothing is waited for: the service starts the job, and publishing is its last step.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from captionbeam.jobs import cli

JOBS = ("encode", "caption", "refresh", "svd", "tokenize")


class _Parameters(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise SystemExit(f"captionbeam: the template's parameters are wrong: {message}")


def command(arguments: Sequence[str]) -> list[str]:
    """The command line of ``captionbeam`` that a launcher's arguments mean.

    ``job`` and ``output`` have to be there. ``sources`` and ``arguments`` are split as a shell would. What else there
    is goes to Beam.
    """
    parser = _Parameters(add_help=False, allow_abbrev=False)
    parser.add_argument("--job", required=True, choices=JOBS)
    parser.add_argument("--output", required=True)
    parser.add_argument("--sources", default="")
    parser.add_argument("--arguments", default="")
    given, rest = parser.parse_known_args(arguments)
    ours = [*shlex.split(given.sources), "--output", given.output, *shlex.split(given.arguments)]
    return [given.job, *ours, *rest]


def main(arguments: Sequence[str]) -> int:
    """Run it; gives the exit status."""
    return cli.main(command(arguments))
