"""``store ls``: lists the snapshots of a store and marks the newest."""

from __future__ import annotations

import argparse

HELP = """\
  captionbeam store ls features

Lists the snapshots of STORE, oldest first: number, time, what made it (add, refresh, rollback, compact, purge), the
run, rows, failures, bytes and tags. The newest, which readers of plain STORE get, is marked with *.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store ls``."""
    from captionbeam.jobs.store_commands.shared import add_json, add_store

    add_store(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the table, or {"store", "newest", "snapshots": [...]}."""
    from captionbeam.jobs.store_commands.shared import print_columns, print_json, whole_store
    from captionbeam.jobs.ui.summary import size
    from captionbeam.pipelines.maintenance.history import snapshot_row
    from captionbeam.schemas.store import layout, tags

    url = whole_store(options.store)
    names = tags.read_tags(url)
    rows = [snapshot_row(snapshot, names) for snapshot in layout.load_snapshots(url)]
    newest = rows[-1]["snapshot"]
    if options.json:
        print_json({"store": url, "newest": newest, "snapshots": rows})
        return 0
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
    return 0
