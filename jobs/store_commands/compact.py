"""``store compact``: rewrites a store with the same rows in fewer files."""

from __future__ import annotations

import argparse

HELP = """\
  captionbeam store compact features
  captionbeam store compact features --dead 0.5 --small 64

Publishes a snapshot of STORE with the same rows and failures as the newest in fewer and fuller files: shards of which
more than --dead is superseded or deleted are written again without that, shards with fewer than --small live rows are
merged, with their index files, into ones of about 1,024 rows, and the manifests become one. Earlier snapshots keep
their files until `captionbeam store vacuum` removes them. Others may publish meanwhile.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store compact``."""
    from captionbeam.jobs.options.shared import natural, share
    from captionbeam.jobs.store_commands.shared import add_store

    add_store(parser)
    parser.add_argument(
        "--dead",
        type=share,
        default=0.2,
        metavar="SHARE",
        help="of dead rows above which a shard is rewritten (default 0.2)",
    )
    parser.add_argument(
        "--small",
        type=natural,
        default=256,
        metavar="N",
        help="rows below which shards are merged (default 256)",
    )


def run(options: argparse.Namespace) -> int:
    """Compacts and prints the result."""
    from captionbeam.jobs.store_commands.shared import whole_store
    from captionbeam.pipelines.maintenance.compact import compact
    from captionbeam.schemas.store import layout

    url = whole_store(options.store)
    before = layout.snapshot_ids(url)[-1]
    snapshot, rewritten = compact(url, options.dead, options.small)
    if snapshot.id <= before:
        print(f"nothing to do: no shard of snapshot {snapshot.id} of {url} is to be rewritten or merged")
        return 0
    print(
        f"published snapshot {snapshot.id} of {url}: {rewritten:,} shards rewritten, {snapshot.totals['rows']:,} "
        f"rows in {snapshot.totals['shards']:,} shards now"
    )
    return 0
