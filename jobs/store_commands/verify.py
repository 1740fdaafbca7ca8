"""``store verify``: checks the integrity of a store."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import DONE, ERROR, Command, Result
from captionbeam.jobs.store_commands.shared import store_folder, store_option
from captionbeam.jobs.ui.summary import size
from captionbeam.jobs.ui.terminal import say, visible


@dataclass(frozen=True, kw_only=True)
class VerifyStore(Command):
    """Checks every file of a store."""

    HELP = """\
  captionbeam store verify features

Reads every file of STORE's snapshots and checks SHA-256, sizes, row counts, the index against data and failures,
deletes against the rows that they name, totals, one live row per image, the weights or bundle in models/, and tags.
Prints each problem on one line. The exit status is 0 if there is none, else 1.
"""
    name = "store verify"

    store: str = store_option()

    def execute(self) -> Result:
        """Prints the problems, or that there are none. The status is 1 if there are any."""
        from captionbeam.pipelines.maintenance.verify import verify

        url = store_folder(self.store)
        report = verify(url)
        for problem in report.problems:
            say(visible(problem))
        count = len(report.problems)
        checked = f"{report.snapshots:,} snapshots, {report.shards:,} shards, {size(report.bytes)}"
        say(f"{url}: {count or 'no'} problem{'s' * (count != 1)}; {checked} read")
        totals = {
            "problems": report.problems,
            "snapshots": report.snapshots,
            "shards": report.shards,
            "bytes": report.bytes,
        }
        return Result(ERROR if count else DONE, totals, url)
