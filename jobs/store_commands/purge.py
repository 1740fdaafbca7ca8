"""``store purge``: physically removes images from a store, for takedowns."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.options.shared import read_ids
from captionbeam.jobs.store_commands.shared import store_option, whole_store
from captionbeam.jobs.ui.terminal import note, say
from captionbeam.schemas.counts import counted
from captionbeam.schemas.formats.tokens import read_record
from captionbeam.schemas.options import FILE, option


@dataclass(frozen=True, kw_only=True)
class PurgeImages(Command):
    """Removes images from every snapshot of a store."""

    HELP = """\
  captionbeam store purge features --ids takedown.txt
  captionbeam store purge tokens --ids takedown.txt

Removes the images of --ids from STORE permanently: from the data, index, failures and deletes of every snapshot, tagged
ones too, from plans, from kept answers of endpoints, and from files of killed runs. All other rows keep their values
and snapshot numbers. Running jobs on STORE may have to be restarted. Sources are not changed: remove the images there
too, or the next run adds them again. An interrupted purge is completed by running it again. STORE may also be a token
table, which loses the images and their captions; its tokenizer keeps the words that it learned.
"""
    name = "store purge"

    store: str = store_option()
    ids: str = option(..., "a text file or URL with an image id on each line", FILE)

    def execute(self) -> Result:
        """Purges and prints the result."""
        from captionbeam.pipelines.maintenance.purge import purge, purge_tokens

        ids = read_ids(self.ids)
        if read_record(self.store) is not None:
            gone = purge_tokens(self.store, ids)
            say(
                f"{self.store}: {len(gone):,} of {counted(len(ids), 'id')} found, token table written without them"
            )
            return Result(totals={"ids": sorted(gone)}, output=self.store)
        url = whole_store(self.store)
        done = purge(url, ids)
        say(
            f"{url}: {len(done.ids):,} of {counted(len(ids), 'id')} found, "
            f"{counted(len(done.snapshots), 'snapshot')} written without them, {counted(done.files, 'file')} removed"
        )
        note("an image that its source still has is added again by the next run")
        if done.unreadable:
            note(
                f"{counted(len(done.unreadable), 'file')} of killed writers (such as {done.unreadable[0]}) cannot be "
                "read and may have rows of these images; captionbeam store vacuum removes them"
            )
        totals = {
            "ids": sorted(done.ids),
            "snapshots": sorted(done.snapshots),
            "files_removed": done.files,
            "unreadable": done.unreadable,
        }
        return Result(totals=totals, output=url)
