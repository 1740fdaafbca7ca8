"""The program of the Flex Template: converts its parameters and the launcher's own flags to one of our commands.

The launcher passes everything as ``--name=value``. With ``--template_location``, one of its flags, Beam writes the
job's description there and does not wait: the service starts the job, which publishes in its last step.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from captionbeam.jobs import cli

JOBS = ("encode", "caption", "refresh", "svd", "tokenize")


def command(arguments: Sequence[str]) -> list[str]:
    """Returns the ``captionbeam`` command line for a launcher's arguments.

    ``job`` and ``output`` are required. ``sources`` and ``arguments`` are split like shell words. All other arguments
    go to Beam.
    """
    parser = argparse.ArgumentParser("captionbeam", add_help=False, allow_abbrev=False)
    parser.add_argument("--job", required=True, choices=JOBS)
    parser.add_argument("--output", required=True)
    parser.add_argument("--sources", default="")
    parser.add_argument("--arguments", default="")
    given, rest = parser.parse_known_args(arguments)
    ours = [*shlex.split(given.sources), "--output", given.output, *shlex.split(given.arguments)]
    return [given.job, *ours, *rest]


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns the exit status."""
    return cli.main(command(arguments))
