"""``store tag``, ``store promote`` and ``store rollback``: name snapshots, and return to an earlier one."""

from __future__ import annotations

import argparse

TAG_HELP = """\
  captionbeam store tag features 2026-12 3

Gives a snapshot of STORE (the newest, unless SNAPSHOT names one) a name that readers open as STORE@NAME, and that
vacuum never removes. A name that is given already is refused, as a tag says what something was;
`captionbeam store promote` moves a name that says what to use now.
"""
PROMOTE_HELP = """\
  captionbeam store promote captions prod 7

Moves the tag NAME to a snapshot of STORE (the newest, unless SNAPSHOT names one), or makes it: from then on readers
of STORE@NAME get that snapshot; those that have it open keep what they opened. Unlike `captionbeam store tag`, which
refuses a name that is given already. With --forward a tag that stands for a later snapshot stays there, so that of two
schedules that overlap the slower one does not take it back.
"""
ROLLBACK_HELP = """\
  captionbeam store rollback features 3

Publishes a new snapshot of STORE with the content of an earlier one, so that readers of plain STORE get that again.
Nothing is removed: the snapshots in between stay, and can be gone back to just so. Tags stay where they are. The next
run does again what the earlier snapshot does not have; what was committed since is taken up at no cost.
"""


def add_tag_options(parser: argparse.ArgumentParser) -> None:
    """Adds the common options of ``store tag`` and ``store promote``."""
    from captionbeam.jobs.store_commands.shared import add_store

    add_store(parser)
    parser.add_argument("name", metavar="NAME", help="of the tag, such as prod")
    parser.add_argument(
        "snapshot", metavar="SNAPSHOT", nargs="?", help="a number or tag (default: the newest)"
    )


def add_promote_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store promote``."""
    add_tag_options(parser)
    parser.add_argument(
        "--forward", action="store_true", help="leave the tag alone where it stands for a later snapshot"
    )


def add_rollback_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store rollback``."""
    from captionbeam.jobs.store_commands.shared import add_store

    add_store(parser)
    parser.add_argument(
        "snapshot", metavar="SNAPSHOT", help="the number or tag of the snapshot to go back to"
    )


def run_tag(options: argparse.Namespace) -> int:
    """Tags a snapshot; refuses a name that exists."""
    from captionbeam.jobs.options.shared import require
    from captionbeam.schemas.store import tags

    url, number = _wanted(options)
    taken = not tags.create_tag(url, options.name, number)
    require(
        not taken,
        f"the tag {options.name!r} of {url} stands for snapshot "
        f"{tags.read_tag(url, options.name) if taken else number}; expected a new name, "
        f"or `captionbeam store promote`, which moves it",
    )
    print(f"{url}@{options.name} is snapshot {number}")
    return 0


def run_promote(options: argparse.Namespace) -> int:
    """Moves a tag to a snapshot."""
    from captionbeam.schemas.store import tags

    url, number = _wanted(options)
    before = _stood_for(url, tags.check_name(options.name))
    if options.forward and before is not None and before > number:
        print(f"nothing to do: {url}@{options.name} is snapshot {before}, later than {number}")
        return 0
    tags.set_tag(url, options.name, number)
    print(f"{url}@{options.name} is snapshot {number}" + (f", was {before}" if before is not None else ""))
    return 0


def _stood_for(url: str, name: str) -> int | None:
    """Returns the snapshot of a tag; None if there is none, or if it is invalid and will be overwritten."""
    from captionbeam.schemas.errors import StoreError
    from captionbeam.schemas.store.tags import read_tag

    try:
        return read_tag(url, name)
    except StoreError:
        return None


def run_rollback(options: argparse.Namespace) -> int:
    """Publishes an earlier snapshot's content again."""
    from captionbeam.jobs.store_commands.shared import whole_store
    from captionbeam.pipelines.maintenance.history import roll_back, snapshot_number
    from captionbeam.schemas.store import layout

    url = whole_store(options.store)
    target = layout.load_snapshot(url, snapshot_number(url, options.snapshot))
    before = layout.snapshot_ids(url)[-1]
    snapshot = roll_back(url, target)
    if snapshot.id <= before:
        print(f"nothing to do: snapshot {snapshot.id}, the newest of {url}, has the content of {target.id}")
        return 0
    print(
        f"published snapshot {snapshot.id} of {url}: {snapshot.totals['rows']:,} rows, as snapshot {target.id}"
    )
    return 0


def _wanted(options: argparse.Namespace) -> tuple[str, int]:
    from captionbeam.jobs.store_commands.shared import whole_store
    from captionbeam.pipelines.maintenance.history import snapshot_number
    from captionbeam.schemas.store import layout

    url = whole_store(options.store)
    if options.snapshot is not None:
        return url, snapshot_number(url, options.snapshot)
    return url, layout.snapshot_ids(url)[-1]
