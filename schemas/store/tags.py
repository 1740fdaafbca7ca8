"""Tags: names for snapshots of a store, such as ``prod``, that readers open as ``STORE@prod``.

``tags/NAME.json`` has the snapshot's number and when it was set; it is overwritten whole.
"""

from __future__ import annotations

import datetime
import json
import re

from captionbeam.schemas.errors import RequestError, StoreError
from captionbeam.schemas.storage import files

NAME = re.compile(r"(?!\d+$)[A-Za-z0-9][A-Za-z0-9._-]*")  # digits alone are a snapshot's number


def check_name(name: str) -> str:
    """``name`` if a tag may be called so. Raises RequestError."""
    if not NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} is no name of a tag; expected letters, digits, '.', '_', '-', not digits alone"
        )
    return name


def tag_url(url: str, name: str) -> str:
    """Where the tag ``name`` of the store at ``url`` is, or would be."""
    return files.join(url, "tags", f"{name}.json")


def set_tag(url: str, name: str, snapshot: int) -> None:
    """Let ``name`` stand for ``snapshot``, whatever it stood for; a reader sees the old or the new."""
    files.write_atomic(tag_url(url, check_name(name)), _record(snapshot))


def create_tag(url: str, name: str, snapshot: int) -> bool:
    """Let ``name`` stand for ``snapshot``; False where it stands for one already."""
    return files.create(tag_url(url, check_name(name)), _record(snapshot))


def read_tag(url: str, name: str) -> int:
    """The snapshot that ``name`` stands for. Raises StoreError where there is no such tag."""
    try:
        return int(files.read_json(tag_url(url, check_name(name)))["snapshot"])
    except FileNotFoundError as err:
        known = ", ".join(sorted(read_tags(url))) or "none"
        raise StoreError(f"store {url} has no tag {name!r}; it has {known}") from err
    except (json.JSONDecodeError, TypeError, KeyError, ValueError) as err:
        raise StoreError(f"{tag_url(url, name)} is not a tag ({err}); expected JSON with a snapshot") from err


def read_tags(url: str) -> dict[str, int]:
    """Every tag of the store at ``url``, and its snapshot."""
    names = [name.removesuffix(".json") for name in files.names(files.join(url, "tags"))]
    return {name: read_tag(url, name) for name in names if NAME.fullmatch(name)}


def split_selector(url: str) -> tuple[str, str | None]:
    """``STORE@prod`` as the store's URL and ``prod``; ``@prod`` may be a tag or a number, or may be missing.

    Only the last part of the path is looked at, and a folder that is called so itself is taken for the store.
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
