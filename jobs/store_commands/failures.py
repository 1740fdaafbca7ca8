"""``store failures``: lists the failed images with their reasons."""

from __future__ import annotations

import argparse

HELP = """\
  captionbeam store failures features
  captionbeam store failures features@prod --code timeout --json

Lists the images of a snapshot of STORE that could not be processed, by code and id: code, stage, id, place and what was
wrong. `captionbeam store retry-failures` does them again.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store failures``."""
    from captionbeam.jobs.store_commands.shared import add_json, add_store

    add_store(parser, snapshot=True)
    parser.add_argument("--code", metavar="CODE", help="only these, such as timeout")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints one line per image, or a list of objects."""
    from captionbeam.jobs.options.shared import require
    from captionbeam.jobs.store_commands.shared import print_json
    from captionbeam.jobs.ui.terminal import visible
    from captionbeam.schemas import Store
    from captionbeam.schemas.errors import FAILURE_CODES

    known = ", ".join(sorted(FAILURE_CODES))
    require(
        options.code in (None, *FAILURE_CODES), f"no failure code {options.code!r}; expected one of {known}"
    )
    rows = Store.open(options.store).failures().sort_by([("code", "ascending"), ("image_id", "ascending")])
    found = [row for row in rows.to_pylist() if options.code in (None, row["code"])]
    if options.json:
        print_json(found)
        return 0
    for row in found:
        print("\t".join(visible(row[name]) for name in ("code", "stage", "image_id", "uri", "message")))
    return 0
