"""``store ls``: lists the snapshots of a store and marks the newest."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.store_commands.shared import (
    json_option,
    print_columns,
    print_json,
    store_option,
    whole_store,
)
from captionbeam.jobs.ui.summary import size
from captionbeam.schemas.store import layout, tags


@dataclass(frozen=True, kw_only=True)
class ListSnapshots(Command):
    """Lists the snapshots of a store."""

    HELP = """\
  captionbeam store ls features

Lists the snapshots of STORE, oldest first: number, time, operation (add, refresh, rollback, compact, purge), run, rows,
failures, bytes and tags. The newest, which STORE without @ means, is marked with *.
"""
    name = "store ls"

    store: str = store_option()
    json: bool = json_option()

    def execute(self) -> Result:
        """Prints the table; the totals are {"store", "newest", "snapshots": [...]}."""
        from captionbeam.pipelines.maintenance.history import snapshot_row

        url = whole_store(self.store)
        names = tags.read_tags(url)
        rows = [snapshot_row(snapshot, names) for snapshot in layout.load_snapshots(url)]
        newest = rows[-1]["snapshot"]
        totals = {"store": url, "newest": newest, "snapshots": rows}
        if self.json:
            print_json(totals)
            return Result(totals=totals)
        lines = [
            (
                f"{row['snapshot']}{' *' if row['snapshot'] == newest else ''}",
                row["time"],
                f"{row['operation']} {row['note']}".strip(),
                row["run"],
                row["rows"],
                row["failed"],
                size(row["bytes"]),
                ", ".join(row["tags"]),
            )
            for row in rows
        ]
        print_columns(("snapshot", "time", "operation", "run", "rows", "failures", "size", "tags"), lines)
        return Result(totals=totals)
