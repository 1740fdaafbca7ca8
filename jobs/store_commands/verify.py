"""``store verify``: checks the integrity of a store."""

from __future__ import annotations

import argparse

HELP = """\
  captionbeam store verify features

Reads every file that the snapshots of STORE name and compares all of it: SHA-256, sizes, row counts, the index with
data and failures, deletes with the rows they name, totals, one live row an image, the weights or bundle in models/,
tags. Status 0 where all is well; else 1, and one line a problem.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store verify``."""
    from captionbeam.jobs.store_commands.shared import add_store

    add_store(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the problems, or that there are none. Returns 1 if there are any."""
    from captionbeam.jobs.store_commands.shared import store_folder
    from captionbeam.jobs.ui.summary import size
    from captionbeam.jobs.ui.terminal import visible
    from captionbeam.pipelines.maintenance.verify import verify

    url = store_folder(options.store)
    report = verify(url)
    for problem in report.problems:
        print(visible(problem))
    checked = f"{report.snapshots:,} snapshots, {report.shards:,} shards, {size(report.bytes)}"
    print(f"{url}: {len(report.problems) or 'no'} problem{'s' * (len(report.problems) != 1)}; {checked} read")
    return 1 if report.problems else 0
