"""``store show``: prints one snapshot's rows, bytes, failures by code, specification and origin."""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.store_commands.shared import json_option, print_json, store_option
from captionbeam.jobs.ui.summary import print_table, size
from captionbeam.jobs.ui.terminal import visible
from captionbeam.schemas import Store


@dataclass(frozen=True, kw_only=True)
class ShowSnapshot(Command):
    """Shows one snapshot: rows, bytes, failures, specification, origin."""

    HELP = """\
  captionbeam store show features
  captionbeam store show captions@prod --json

Shows one snapshot of STORE, the newest unless a tag or number after @ selects another: rows, bytes, failures by code,
fingerprint and specification, parent snapshots, runs, and the number of images of each source.
"""
    name = "store show"

    store: str = store_option(snapshot=True)
    json: bool = json_option()

    def execute(self) -> Result:
        """Prints the description of the snapshot, which is the totals."""
        from captionbeam.pipelines.maintenance.history import describe

        found = describe(Store.open(self.store))
        if self.json:
            print_json(found)
        else:
            print_table(f"store: {found['store']}", _rows(found))
        return Result(totals=found)


def _rows(said: Mapping[str, Any]) -> dict[str, str]:
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
        "specification": json_text.dumps(said["spec"], indent=1),
    }
    if said["rounding"]:
        rows["int8"] = _rounding(said)
    return rows


def _rounding(said: Mapping[str, Any]) -> str:
    """Describes the int8 rounding error relative to float16."""
    error = said["rounding"]
    rows, stored = error["rows"], error["stored_rows"]
    known = "" if rows == stored else f" (over {rows:,} of {stored:,} rows; the others were copied)"
    return (
        f"off by {error['rms_relative']:.3%} (root mean square), at most {error['max_abs']:.3g} where the largest "
        f"number is {error['max_value']:.3g}{known}"
    )
