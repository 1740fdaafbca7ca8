"""``store diff``: compares the images of two snapshots."""

from __future__ import annotations

import argparse

HELP = """\
  captionbeam store diff features 1 2
  captionbeam store diff captions prod 7 --ids

Compares two snapshots of STORE, each named by number or tag: images added, removed, changed (another version),
redone (the same version, another row), newly failed and recovered. --ids names them, one line each.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store diff``."""
    from captionbeam.jobs.store_commands.shared import add_json, add_store

    add_store(parser)
    parser.add_argument("before", metavar="A", help="a snapshot's number or tag")
    parser.add_argument("after", metavar="B", help="the snapshot that it is compared with")
    parser.add_argument("--ids", action="store_true", help="name the images, not only count them")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints counts, and with --ids the ids."""
    from captionbeam.jobs.store_commands.shared import print_json, whole_store
    from captionbeam.jobs.ui.summary import print_table
    from captionbeam.jobs.ui.terminal import visible
    from captionbeam.pipelines.maintenance.history import diff, snapshot_number
    from captionbeam.schemas import Store

    url = whole_store(options.store)
    before, after = (snapshot_number(url, text) for text in (options.before, options.after))
    found = diff(Store.open(url, before), Store.open(url, after))._asdict()
    counts = {name: len(ids) for name, ids in found.items()}
    if options.json:
        ids = {"ids": found} if options.ids else {}
        print_json({"store": url, "before": before, "after": after, **counts, **ids})
        return 0
    rows = {
        "store": url,
        "snapshots": f"{before} to {after}",
        **{name: f"{n:,}" for name, n in counts.items()},
    }
    print_table("difference", rows)
    if options.ids:
        for name, ids in found.items():
            print(*(f"{name}\t{visible(image_id)}" for image_id in ids), sep="\n", end="\n" if ids else "")
    return 0
