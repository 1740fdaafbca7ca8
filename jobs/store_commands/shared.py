"""Shared parts of the ``captionbeam store`` commands: opening, selecting a snapshot, printing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from captionbeam.jobs.ui.summary import console
from captionbeam.jobs.ui.terminal import say, visible
from captionbeam.schemas.errors import RequestError, StoreError
from captionbeam.schemas.options import STORE, option, text
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout, tags
from captionbeam.schemas.store.reading import Store


def store_option(snapshot: bool = False) -> Any:
    """Returns the positional option STORE; with ``snapshot`` it may name one, as ``STORE@prod`` or ``STORE@3``."""
    if not snapshot:
        return option(..., "the store: a folder or URL", STORE, positional=True)
    about = "the store, a folder or URL; @ and a tag or number select a snapshot (default: the newest)"
    return option(..., about, text("STORE[@SNAPSHOT]"), positional=True)


def json_option() -> Any:
    """Returns the option --json."""
    return option(False, "print JSON instead of a table")


def whole_store(url: str) -> str:
    """Returns the store's absolute URL. Raises StoreError if nothing is published, RequestError for ``STORE@...``."""
    return Store.open(store_folder(url)).url


def store_folder(url: str) -> str:
    """Like ``whole_store``, but the newest snapshot need not be readable."""
    base, selector = tags.split_selector(files.absolute(url))
    if selector is not None:
        raise RequestError(f"{url!r} names one snapshot; expected the store alone, {base}")
    if not layout.snapshot_ids(base):
        raise StoreError(f"{base} has no published snapshot; expected a store that a finished job wrote")
    return base


def print_json(value: Any) -> None:
    """Prints one JSON value on standard output."""
    say(json.dumps(value, indent=1))


def print_columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table with a header; number columns are right-aligned."""
    table = Table(title_justify="left")
    for at, name in enumerate(names):
        number = all(isinstance(row[at], int) for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else visible(value) for value in row))
    console(width=160).print(table)
