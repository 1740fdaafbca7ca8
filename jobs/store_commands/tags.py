"""``store tag``, ``store promote`` and ``store rollback``: name snapshots, and return to an earlier one."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.store_commands.shared import store_option, whole_store
from captionbeam.jobs.ui.terminal import say
from captionbeam.schemas.counts import counted
from captionbeam.schemas.errors import RequestError, StoreError
from captionbeam.schemas.options import like, option, text
from captionbeam.schemas.store import layout, tags


@dataclass(frozen=True, kw_only=True)
class TagSnapshot(Command):
    """Gives a snapshot a name."""

    HELP = """\
  captionbeam store tag features 2026-12 3

Gives a snapshot of STORE the tag NAME. Readers open it as STORE@NAME, and vacuum never removes it. An existing tag is
an error; `captionbeam store promote` moves one.
"""
    name = "store tag"

    store: str = store_option()
    tag: str = option(..., "name of the tag, such as prod", text("NAME"), positional=True)
    snapshot: str | None = option(
        None, "a number or tag (default: the newest)", text("SNAPSHOT"), positional=True
    )

    def execute(self) -> Result:
        """Creates the tag."""
        url, number = self.resolve()
        if not tags.create_tag(url, self.tag, number):
            raise RequestError(
                f"the tag {self.tag!r} of {url} is snapshot {tags.read_tag(url, self.tag)}; expected a new name, or "
                "`captionbeam store promote`, which moves it"
            )
        return self.report(url, number)

    def resolve(self) -> tuple[str, int]:
        """Returns the store's URL and the snapshot's number."""
        from captionbeam.pipelines.maintenance.history import snapshot_number

        url = whole_store(self.store)
        newest = layout.snapshot_ids(url)[-1]
        return url, newest if self.snapshot is None else snapshot_number(url, self.snapshot)

    def report(self, url: str, number: int, before: int | None = None) -> Result:
        """Prints the tag's snapshot, and the one ``before``."""
        say(f"{url}@{self.tag} is snapshot {number}" + (f" (before: {before})" if before is not None else ""))
        totals = {"store": url, "tag": self.tag, "snapshot": number, "before": before}
        return Result(totals=totals, output=url)


@dataclass(frozen=True, kw_only=True)
class PromoteSnapshot(TagSnapshot):
    """Moves a tag to a snapshot."""

    HELP = """\
  captionbeam store promote captions prod 7

Moves the tag NAME to a snapshot of STORE, or creates it. From then on readers of STORE@NAME get that snapshot; those
that have the earlier one open keep it.
"""
    name = "store promote"

    store: str = store_option()
    tag: str = like(TagSnapshot, "tag")
    snapshot: str | None = like(TagSnapshot, "snapshot")
    forward: bool = option(
        False,
        "never move the tag to an earlier snapshot, so that of two overlapping schedules the slower one does not move "
        "it back",
    )

    def execute(self) -> Result:
        """Sets the tag."""
        url, number = self.resolve()
        try:
            before = tags.read_tag(url, tags.check_name(self.tag))
        except StoreError:  # no tag, or a damaged one, which is overwritten
            before = None
        if self.forward and before is not None and before > number:
            say(f"nothing to do: {url}@{self.tag} is snapshot {before}, later than {number}")
            return Result(
                totals={"store": url, "tag": self.tag, "snapshot": before, "before": before}, output=url
            )
        tags.set_tag(url, self.tag, number)
        return self.report(url, number, before)


@dataclass(frozen=True, kw_only=True)
class Rollback(Command):
    """Publishes the content of an earlier snapshot again."""

    HELP = """\
  captionbeam store rollback features 3

Publishes a new snapshot of STORE with the content of an earlier one. No snapshot is removed and no tag moves, so a
rollback can be undone in the same way. The next run adds the images that the earlier snapshot does not have; shards
that were committed since are reused.
"""
    name = "store rollback"

    store: str = store_option()
    snapshot: str = option(..., "number or tag of the earlier snapshot", text("SNAPSHOT"), positional=True)

    def execute(self) -> Result:
        """Publishes the snapshot, unless the newest has this content."""
        from captionbeam.pipelines.maintenance.history import roll_back, snapshot_number

        url = whole_store(self.store)
        target = layout.load_snapshot(url, snapshot_number(url, self.snapshot))
        before = layout.snapshot_ids(url)[-1]
        snapshot = roll_back(url, target)
        if snapshot.id <= before:
            say(f"nothing to do: snapshot {snapshot.id}, the newest of {url}, has the content of {target.id}")
        else:
            rows = counted(snapshot.totals["rows"], "row")
            say(f"published snapshot {snapshot.id} of {url}: {rows}, the content of snapshot {target.id}")
        totals = {"snapshot": snapshot.id, "content_of": target.id, **snapshot.totals}
        return Result(totals=totals, output=url)
