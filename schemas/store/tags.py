"""Tags: names for snapshots of a store, such as ``prod``. Readers open one as ``STORE@prod``.

``tags/NAME.json`` holds the snapshot's number and the time of the change. It is replaced atomically.
"""

from __future__ import annotations

import datetime
import json
import re

from captionbeam.schemas.errors import RequestError, StoreError
from captionbeam.schemas.storage import files

NAME = re.compile(r"(?!\d+$)[A-Za-z0-9][A-Za-z0-9._-]*")  # digits alone mean a snapshot number


def check_name(name: str) -> str:
    """Returns ``name`` if it is a valid tag name. Raises RequestError otherwise."""
    if not NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} is no name of a tag; expected letters, digits, '.', '_', '-', not digits alone"
        )
    return name


def tag_url(url: str, name: str) -> str:
    """Returns the URL of the tag ``name`` of the store at ``url``, whether or not it exists."""
    return files.join(url, "tags", f"{name}.json")


def set_tag(url: str, name: str, snapshot: int) -> None:
    """Creates or moves the tag ``name`` to ``snapshot``, atomically for readers."""
    files.write_atomic(tag_url(url, check_name(name)), _record(snapshot))


def create_tag(url: str, name: str, snapshot: int) -> bool:
    """Creates the tag ``name`` for ``snapshot``. Returns False if the tag exists."""
    return files.create(tag_url(url, check_name(name)), _record(snapshot))


def read_tag(url: str, name: str) -> int:
    """Returns the snapshot number of the tag ``name``. Raises StoreError if the tag is missing or invalid."""
    try:
        return int(files.read_json(tag_url(url, check_name(name)))["snapshot"])
    except FileNotFoundError as err:
        known = ", ".join(sorted(read_tags(url))) or "none"
        raise StoreError(f"store {url} has no tag {name!r}; it has {known}") from err
    except (json.JSONDecodeError, TypeError, KeyError, ValueError) as err:
        raise StoreError(f"{tag_url(url, name)} is not a tag ({err}); expected JSON with a snapshot") from err


def snapshot_number(url: str, snapshot: int | str) -> int:
    """Returns the number of a snapshot given by number or tag. Raises StoreError if the tag is missing or invalid."""
    text = str(snapshot)
    return int(text) if text.isascii() and text.isdigit() else read_tag(url, text)


def read_tags(url: str) -> dict[str, int]:
    """Returns ``{tag: snapshot number}`` of the store at ``url``."""
    names = [name.removesuffix(".json") for name in files.names(files.join(url, "tags"))]
    return {name: read_tag(url, name) for name in names if NAME.fullmatch(name)}


def split_selector(url: str) -> tuple[str, str | None]:
    """Splits ``STORE@prod`` into the store's URL and ``prod`` (a tag or a number); None if there is no ``@`` part.

    Only the last part of the path is split. A folder whose own name contains the ``@`` is taken as the store.
    """
    head, slash, last = url.rstrip("/").rpartition("/")
    base, mark, selector = last.rpartition("@")
    said = selector.isascii() and (selector.isdigit() or NAME.fullmatch(selector) is not None)
    if not mark or not base or not said or files.exists(url):
        return url, None
    return f"{head}{slash}{base}", selector


def _record(snapshot: int) -> bytes:
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return files.json_bytes({"snapshot": snapshot, "time": time})
