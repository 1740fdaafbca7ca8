"""``store ls``, ``store show``, ``store failures`` and ``store diff``: what the snapshots of a store hold."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.store_commands.shared import (
    json_option,
    print_columns,
    print_json,
    store_option,
    whole_store,
)
from captionbeam.jobs.ui.summary import print_table, size
from captionbeam.jobs.ui.terminal import say, visible
from captionbeam.schemas import Store
from captionbeam.schemas.counts import counted
from captionbeam.schemas.errors import FAILURE_CODES
from captionbeam.schemas.formats.arrow import FAILURES
from captionbeam.schemas.options import one_of, option, text
from captionbeam.schemas.store import layout, tags

_LONGEST = 40  # characters of a kept value in a line


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
        say("* the newest, which the store's name alone stands for")
        return Result(totals=totals)


@dataclass(frozen=True, kw_only=True)
class ShowSnapshot(Command):
    """Shows one snapshot: rows, bytes, failures, specification, origin."""

    HELP = """\
  captionbeam store show features
  captionbeam store show captions@prod --json

Shows one snapshot of STORE, the newest unless a tag or number after @ selects another: rows, bytes, failures by code,
fingerprint and specification, columns kept from the input, parent snapshots, runs, the number of images of each source,
and the median of the captions' scores (of a sample of a large store).
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


def _rows(facts: Mapping[str, Any]) -> dict[str, str]:
    shards = counted(facts["shards"], "shard")
    rows = {
        "snapshot": f"{facts['snapshot']} of {facts['time']}, {facts['operation']} {facts['note']}".rstrip(),
        "tags": ", ".join(facts["tags"]) or "none",
        "kind": f"{facts['kind']}, {facts['format']}, {_columns(facts)}",
        "kept columns": ", ".join(f"{visible(name)} {kind}" for name, kind in facts["kept"].items())
        or "none",
        "rows": f"{facts['rows']:,} in {shards} ({facts['superseded']:,} superseded or deleted)",
        "size": size(facts["bytes"]),
        "failures": ", ".join(f"{count:,} {code}" for code, count in facts["failures"].items()) or "none",
        "sources": "\n".join(f"{count:,} of {visible(source)}" for source, count in facts["sources"].items())
        or "none",
        "parents": ", ".join(map(str, facts["parents"])) or "none",
        "runs": "\n".join(facts["runs"]),
        "fingerprint": facts["fingerprint"],
        "specification": json_text.dumps(facts["spec"], indent=1),
    }
    if facts["scores"]:
        rows["median score"] = ", ".join(f"{score:.3f} of {name}" for name, score in facts["scores"].items())
    if facts["rounding"]:
        rows["int8"] = _rounding(facts)
    return rows


def _columns(facts: Mapping[str, Any]) -> str:
    names = facts["columns"]
    if len(names) > 1:
        return f"columns {', '.join(names)}"
    return f"column {facts['column']} {facts['shape'] or ''}".rstrip()


def _rounding(facts: Mapping[str, Any]) -> str:
    """Describes the int8 rounding error relative to float16."""
    error = facts["rounding"]
    rows, stored = error["rows"], error["stored_rows"]
    known = "" if rows == stored else f" (over {rows:,} of {stored:,} rows; the others were copied)"
    return (
        f"off by {error['rms_relative']:.3%} (root mean square), at most {error['max_abs']:.3g} where the largest "
        f"number is {error['max_value']:.3g}{known}"
    )


@dataclass(frozen=True, kw_only=True)
class ListFailures(Command):
    """Lists the failed images of a snapshot with their reasons."""

    HELP = """\
  captionbeam store failures features
  captionbeam store failures features@prod --code timeout --json

Lists the images of a snapshot of STORE that could not be processed, sorted by code and id: code, stage, id, location,
message, and the columns kept from the input, each cut at 40 characters. `captionbeam store retry-failures` processes
them again.
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
        rows = _plain_rows(Store.open(self.store).failures().sort_by(order))
        found = [row for row in rows if self.code in (None, row["code"])]
        if self.json:
            print_json(found)
        else:
            for row in found:
                say("\t".join(_failure_line(row)))
        return Result(totals={"failures": found})


def _failure_line(row: Mapping[str, Any]) -> Iterator[str]:
    yield from (visible(row[name]) for name in ("code", "stage", "image_id", "uri", "message"))
    kept = {name: value for name, value in row.items() if name not in FAILURES.names and value is not None}
    if kept:
        yield ", ".join(f"{visible(name)}={_cut(value)}" for name, value in kept.items())


def _cut(value: Any) -> str:
    text = visible(value if isinstance(value, str) else json_text.dumps(value, ensure_ascii=False))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _plain_rows(failures: Any) -> list[dict[str, Any]]:
    """Returns the rows of failures, with kept columns in JSON's types."""
    from captionbeam.schemas.formats.kept import plain_values

    columns = [plain_values(column.combine_chunks()) for column in failures.columns]
    return [dict(zip(failures.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True, kw_only=True)
class DiffSnapshots(Command):
    """Compares the images of two snapshots."""

    HELP = """\
  captionbeam store diff features 1 2
  captionbeam store diff captions prod 7 --ids

Compares two snapshots of STORE, each given by number or tag: images added, removed, changed (another version),
recomputed (the same version, another row), with other kept columns, newly failed and recovered.
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
