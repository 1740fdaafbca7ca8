"""``store vacuum``: removes old snapshots and unreferenced files."""

from __future__ import annotations

import argparse

HELP = """\
  captionbeam store vacuum features --keep 5 --dry-run
  captionbeam store vacuum features --keep 5 --grace 24

Removes the snapshots of STORE beyond the newest --keep, tagged ones excepted, and every file that no snapshot needs
any more: their data, commits, plans and weights, and what killed runs left. Files younger than --grace hours stay,
and so does all that a run needs that did something in that time and has not ended. Readers of a removed snapshot that
still have it open will fail. Stopped at any moment, it leaves a store that can be read; run again, it goes on.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store vacuum``."""
    from captionbeam.jobs.options.shared import positive, price
    from captionbeam.jobs.store_commands.shared import add_store

    add_store(parser)
    parser.add_argument(
        "--keep", type=positive, required=True, metavar="N", help="how many of the newest snapshots stay"
    )
    parser.add_argument(
        "--grace", type=price, default=24.0, metavar="HOURS", help="what is younger stays (default 24)"
    )
    parser.add_argument("--dry-run", action="store_true", help="name what would go, remove nothing")


def run(options: argparse.Namespace) -> int:
    """Removes files and prints what was removed."""
    from captionbeam.jobs.store_commands.shared import whole_store
    from captionbeam.jobs.ui.summary import print_table, size
    from captionbeam.pipelines.maintenance.vacuum import find_garbage, vacuum

    url = whole_store(options.store)
    if options.dry_run:
        gone = find_garbage(url, options.keep, options.grace).entries()
        for entry in gone:
            print(entry.name)
    else:
        gone = vacuum(url, options.keep, options.grace)
    rows = {"store": url}
    for folder in dict.fromkeys(entry.name.split("/")[0] for entry in gone):
        inside = [entry.bytes for entry in gone if entry.name.startswith(f"{folder}/")]
        rows[folder] = f"{len(inside):,}, {size(sum(inside))}"
    said = "would go" if options.dry_run else "removed"
    print_table(said, rows if gone else {**rows, "nothing": "all is needed"})
    return 0
