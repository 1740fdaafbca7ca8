"""``store purge``: physically removes images from a store, for takedowns."""

from __future__ import annotations

import argparse

HELP = """\
  captionbeam store purge features --ids takedown.txt
  captionbeam store purge tokens --ids takedown.txt

Takes the images whose ids stand in --ids, one a line, out of STORE for good: out of the data, index, failures and
deletes of every snapshot, tagged ones too, out of plans, and out of what killed runs left. All other rows stay as they
are, under the same snapshot numbers. Jobs that are at work on STORE may have to be started again. Their sources are
not touched: take the images out there too, or the next run brings them back. Stopped at any moment, run it again.
Of a token table it takes out the images and their captions; a tokenizer keeps the words that it learned.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store purge``."""
    from captionbeam.jobs.store_commands.shared import add_store

    add_store(parser)
    parser.add_argument(
        "--ids", required=True, metavar="FILE", help="a text file or URL with an image id a line"
    )


def run(options: argparse.Namespace) -> int:
    """Purges and prints the result."""
    from captionbeam.jobs.options.shared import read_ids
    from captionbeam.jobs.store_commands.shared import whole_store
    from captionbeam.jobs.ui.terminal import note
    from captionbeam.pipelines.maintenance.purge import purge
    from captionbeam.pipelines.maintenance.purge_tokens import purge_tokens
    from captionbeam.schemas.formats.tokens import read_record

    ids = read_ids(options.ids)
    if read_record(options.store) is not None:
        gone = purge_tokens(options.store, ids)
        print(f"{options.store}: {len(gone):,} of {len(ids):,} ids found, token table written without them")
        return 0
    url = whole_store(options.store)
    done = purge(url, ids)
    print(
        f"{url}: {len(done.ids):,} of {len(ids):,} ids found, {len(done.snapshots):,} snapshots written without "
        f"them, {done.files:,} files removed"
    )
    note("an image that its source still has comes back with the next run")
    if done.unreadable:
        print(
            f"note: {len(done.unreadable):,} files of killed writers (such as {done.unreadable[0]}) cannot be read and "
            "may hold anything; captionbeam store vacuum removes them"
        )
    return 0
