"""``store verify``, ``store vacuum`` and ``store compact``: keep a store sound and small."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import DONE, ERROR, Command, Result
from captionbeam.jobs.store_commands.shared import store_folder, store_option, whole_store
from captionbeam.jobs.ui.summary import print_table, size
from captionbeam.jobs.ui.terminal import say, visible
from captionbeam.schemas.counts import counted
from captionbeam.schemas.options import NATURAL, POSITIVE, SHARE, number, option
from captionbeam.schemas.store import layout


@dataclass(frozen=True, kw_only=True)
class VerifyStore(Command):
    """Checks every file of a store."""

    HELP = """\
  captionbeam store verify features

Reads every file of STORE's snapshots and checks SHA-256, sizes, row counts, the index against data and failures,
deletes against the rows that they name, totals, one live row per image, the weights or bundle in models/, tags, and
kept answers of endpoints. Prints each problem on one line. The exit status is 0 if there is none, else 1.
"""
    name = "store verify"

    store: str = store_option()

    def execute(self) -> Result:
        """Prints the problems, or that there are none. The status is 1 if there are any."""
        from captionbeam.pipelines.maintenance.verify import verify

        url = store_folder(self.store)
        report = verify(url)
        for problem in report.problems:
            say(visible(problem))
        count = len(report.problems)
        checked = f"{counted(report.snapshots, 'snapshot')}, {counted(report.shards, 'shard')}, {size(report.bytes)}"
        say(f"{url}: {counted(count, 'problem') if count else 'no problems'}; {checked} read")
        totals = {
            "problems": report.problems,
            "snapshots": report.snapshots,
            "shards": report.shards,
            "bytes": report.bytes,
        }
        return Result(ERROR if count else DONE, totals, url)


@dataclass(frozen=True, kw_only=True)
class VacuumStore(Command):
    """Removes old snapshots and unreferenced files."""

    HELP = """\
  captionbeam store vacuum features --keep 5 --dry-run
  captionbeam store vacuum features --keep 5 --grace 24

Removes the snapshots of STORE except the newest --keep and the tagged ones, and every file that no remaining snapshot
needs: data, commits, plans, weights, and files of killed runs. Files younger than --grace hours are kept, and so are
those of a run that was active in that time and has not ended. Readers that have a removed snapshot open will fail. An
interrupted vacuum leaves a readable store; run it again to complete it.
"""
    name = "store vacuum"

    store: str = store_option()
    keep: int = option(..., "number of newest snapshots to keep", POSITIVE)
    grace: float = option(
        24.0,
        "keep files younger than this",
        number(0, expected="a number of hours of 0 or more", unit="HOURS"),
    )
    dry_run: bool = option(False, "list what would be removed, and remove nothing")

    def execute(self) -> Result:
        """Removes files and prints what was removed."""
        from captionbeam.pipelines.maintenance.vacuum import find_garbage, vacuum

        url = whole_store(self.store)
        if self.dry_run:
            gone = find_garbage(url, self.keep, self.grace).entries()
            for entry in gone:
                say(entry.name)
        else:
            gone = vacuum(url, self.keep, self.grace)
        rows = {"store": url}
        for folder in dict.fromkeys(entry.name.split("/")[0] for entry in gone):
            inside = [entry.bytes for entry in gone if entry.name.startswith(f"{folder}/")]
            rows[folder] = f"{len(inside):,}, {size(sum(inside))}"
        title = "would be removed" if self.dry_run else "removed"
        print_table(title, rows if gone else {**rows, "nothing": "every file is needed"})
        totals = {"files": [entry.name for entry in gone], "bytes": sum(entry.bytes for entry in gone)}
        return Result(totals=totals, output=url)


@dataclass(frozen=True, kw_only=True)
class CompactStore(Command):
    """Rewrites a store with the same rows in fewer files."""

    HELP = """\
  captionbeam store compact features
  captionbeam store compact features --dead 0.5 --small 64

Publishes a snapshot of STORE with the rows and failures of the newest in fewer and larger files. Shards with a larger
share of superseded or deleted rows than --dead are rewritten without them; shards with fewer live rows than --small are
merged, with their index files, to about 1,024 rows each; all manifests are merged. Earlier snapshots keep their files
until `captionbeam store vacuum` removes them. Other jobs may publish meanwhile.
"""
    name = "store compact"

    store: str = store_option()
    dead: float = option(0.2, "rewrite a shard with a larger share of superseded or deleted rows", SHARE)
    small: int = option(256, "merge shards with fewer rows", NATURAL)

    def execute(self) -> Result:
        """Compacts and prints the result."""
        from captionbeam.pipelines.maintenance.compact import compact

        url = whole_store(self.store)
        before = layout.snapshot_ids(url)[-1]
        snapshot, rewritten = compact(url, self.dead, self.small)
        rows, shards = counted(snapshot.totals["rows"], "row"), counted(snapshot.totals["shards"], "shard")
        if snapshot.id <= before:
            say(f"nothing to do: no shard of snapshot {snapshot.id} of {url} needs to be rewritten or merged")
        else:
            written = f"{counted(rewritten, 'shard')} rewritten, now {rows} in {shards}"
            say(f"published snapshot {snapshot.id} of {url}: {written}")
        return Result(totals={"snapshot": snapshot.id, "rewritten": rewritten, **snapshot.totals}, output=url)
