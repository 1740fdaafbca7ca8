"""``store diff``: compares the images of two snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.store_commands.shared import json_option, print_json, store_option, whole_store
from captionbeam.jobs.ui.summary import print_table
from captionbeam.jobs.ui.terminal import say, visible
from captionbeam.schemas import Store
from captionbeam.schemas.options import option, text


@dataclass(frozen=True, kw_only=True)
class DiffSnapshots(Command):
    """Compares the images of two snapshots."""

    HELP = """\
  captionbeam store diff features 1 2
  captionbeam store diff captions prod 7 --ids

Compares two snapshots of STORE, each given by number or tag: images added, removed, changed (another version),
recomputed (the same version, another row), newly failed and recovered.
"""
    name = "store diff"

    store: str = store_option()
    before: str = option(..., "a snapshot's number or tag", text("BEFORE"), positional=True)
    after: str = option(..., "the snapshot that it is compared with", text("AFTER"), positional=True)
    ids: bool = option(False, "also list the image ids, one on each line")
    json: bool = json_option()

    def execute(self) -> Result:
        """Prints counts, and with --ids the ids."""
        from captionbeam.pipelines.maintenance.history import diff, snapshot_number

        url = whole_store(self.store)
        before, after = snapshot_number(url, self.before), snapshot_number(url, self.after)
        found = diff(Store.open(url, before), Store.open(url, after))._asdict()
        counts = {name: len(ids) for name, ids in found.items()}
        totals = {"store": url, "before": before, "after": after, **counts}
        if self.ids:
            totals["ids"] = found
        if self.json:
            print_json(totals)
            return Result(totals=totals)
        rows = {"store": url, "snapshots": f"{before} to {after}"}
        print_table("difference", rows | {name: f"{count:,}" for name, count in counts.items()})
        for name, ids in found.items() if self.ids else ():
            for image_id in ids:
                say(f"{name}\t{visible(image_id)}")
        return Result(totals=totals)
