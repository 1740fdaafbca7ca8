"""``store show``: prints one snapshot's rows, bytes, failures by code, specification and origin."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

HELP = """\
  captionbeam store show features
  captionbeam store show captions@prod --json

Shows one snapshot of STORE, the newest unless a tag or number stands behind @: rows, bytes, failures by code,
fingerprint and specification, the snapshots it came from, the runs that made them, and the images of each source.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store show``."""
    from captionbeam.jobs.store_commands.shared import add_json, add_store

    add_store(parser, snapshot=True)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the table, or the same as one JSON object."""
    import json

    from captionbeam.jobs.store_commands.shared import print_json
    from captionbeam.jobs.ui.summary import print_table, size
    from captionbeam.jobs.ui.terminal import visible
    from captionbeam.pipelines.maintenance.history import describe
    from captionbeam.schemas import Store

    said = describe(Store.open(options.store))
    if options.json:
        print_json(said)
        return 0
    rows = {
        "snapshot": f"{said['snapshot']} of {said['time']}, {said['operation']} {said['note']}".rstrip(),
        "tags": ", ".join(said["tags"]) or "none",
        "kind": f"{said['kind']}, {said['format']}, column {said['column']} {said['shape'] or ''}".rstrip(),
        "rows": f"{said['rows']:,} in {said['shards']:,} shards ({said['superseded']:,} superseded or deleted)",
        "size": size(said["bytes"]),
        "failures": ", ".join(f"{count:,} {code}" for code, count in said["failures"].items()) or "none",
        "sources": "\n".join(f"{count:,} of {visible(source)}" for source, count in said["sources"].items())
        or "none",
        "parents": ", ".join(map(str, said["parents"])) or "none",
        "runs": "\n".join(said["runs"]),
        "fingerprint": said["fingerprint"],
        "specification": json.dumps(said["spec"], indent=1),
    }
    if said["rounding"]:
        rows["int8"] = _rounding(said)
    print_table(f"store: {said['store']}", rows)
    return 0


def _rounding(said: Mapping[str, Any]) -> str:
    """Describes the int8 rounding error relative to float16."""
    error = said["rounding"]
    rows, stored = error["rows"], error["stored_rows"]
    known = "" if rows == stored else f" (over {rows:,} of {stored:,} rows; the others were copied)"
    return (
        f"off by {error['rms_relative']:.3%} (root mean square), at most {error['max_abs']:.3g} where the largest "
        f"number is {error['max_value']:.3g}{known}"
    )
