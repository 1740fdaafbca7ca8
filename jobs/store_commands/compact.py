"""``store compact``: rewrites a store with the same rows in fewer files."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.store_commands.shared import store_option, whole_store
from captionbeam.jobs.ui.terminal import say
from captionbeam.schemas.options import NATURAL, SHARE, option
from captionbeam.schemas.store import layout


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
        rows, shards = snapshot.totals["rows"], snapshot.totals["shards"]
        if snapshot.id <= before:
            say(f"nothing to do: no shard of snapshot {snapshot.id} of {url} needs to be rewritten or merged")
        else:
            written = f"{rewritten:,} shards rewritten, now {rows:,} rows in {shards:,} shards"
            say(f"published snapshot {snapshot.id} of {url}: {written}")
        return Result(totals={"snapshot": snapshot.id, "rewritten": rewritten, **snapshot.totals}, output=url)
