"""``store failures``: lists the failed images with their reasons."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.store_commands.shared import json_option, print_json, store_option
from captionbeam.jobs.ui.terminal import say, visible
from captionbeam.schemas import Store
from captionbeam.schemas.errors import FAILURE_CODES
from captionbeam.schemas.options import one_of, option


@dataclass(frozen=True, kw_only=True)
class ListFailures(Command):
    """Lists the failed images of a snapshot with their reasons."""

    HELP = """\
  captionbeam store failures features
  captionbeam store failures features@prod --code timeout --json

Lists the images of a snapshot of STORE that could not be processed, sorted by code and id: code, stage, id, location
and message. `captionbeam store retry-failures` processes them again.
"""
    name = "store failures"

    store: str = store_option(snapshot=True)
    code: str | None = option(
        None, "only failures with this code, such as timeout", one_of(*sorted(FAILURE_CODES), unit="CODE")
    )
    json: bool = json_option()

    def execute(self) -> Result:
        """Prints one line per image; the totals are {"failures": [...]}."""
        order = [("code", "ascending"), ("image_id", "ascending")]
        rows = Store.open(self.store).failures().sort_by(order).to_pylist()
        found = [row for row in rows if self.code in (None, row["code"])]
        if self.json:
            print_json(found)
        else:
            for row in found:
                names = ("code", "stage", "image_id", "uri", "message")
                say("\t".join(visible(row[name]) for name in names))
        return Result(totals={"failures": found})
