"""``store vacuum``: removes old snapshots and unreferenced files."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.store_commands.shared import store_option, whole_store
from captionbeam.jobs.ui.summary import print_table, size
from captionbeam.jobs.ui.terminal import say
from captionbeam.schemas.options import POSITIVE, number, option


@dataclass(frozen=True, kw_only=True)
class VacuumStore(Command):
    """Removes old snapshots and unreferenced files."""

    HELP = """\
  captionbeam store vacuum features --keep 5 --dry-run
  captionbeam store vacuum features --keep 5 --grace 24

Removes the snapshots of STORE except the newest --keep and the tagged ones, and every file that no remaining snapshot
needs: data, commits, plans, weights, and files of killed runs. Files younger than --grace hours are kept, and so are
those of a run that was active in that time and has not ended. Readers that have a removed snapshot open will fail. An
interrupted vacuum leaves a readable store; run it again to complete it.
"""
    name = "store vacuum"

    store: str = store_option()
    keep: int = option(..., "number of newest snapshots to keep", POSITIVE)
    grace: float = option(
        24.0,
        "keep files younger than this",
        number(0, expected="a number of hours of 0 or more", unit="HOURS"),
    )
    dry_run: bool = option(False, "list what would be removed, and remove nothing")

    def execute(self) -> Result:
        """Removes files and prints what was removed."""
        from captionbeam.pipelines.maintenance.vacuum import find_garbage, vacuum

        url = whole_store(self.store)
        if self.dry_run:
            gone = find_garbage(url, self.keep, self.grace).entries()
            for entry in gone:
                say(entry.name)
        else:
            gone = vacuum(url, self.keep, self.grace)
        rows = {"store": url}
        for folder in dict.fromkeys(entry.name.split("/")[0] for entry in gone):
            inside = [entry.bytes for entry in gone if entry.name.startswith(f"{folder}/")]
            rows[folder] = f"{len(inside):,}, {size(sum(inside))}"
        title = "would be removed" if self.dry_run else "removed"
        print_table(title, rows if gone else {**rows, "nothing": "every file is needed"})
        totals = {"files": [entry.name for entry in gone], "bytes": sum(entry.bytes for entry in gone)}
        return Result(totals=totals, output=url)
