"""What really lies in a store's folders, with ages: temporary files of killed writers too. And removing it."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from captionbeam.schemas.storage import files

REMOVERS = 16
_TIMES = ("mtime", "LastModified", "updated", "last_modified", "created")


class Entry(NamedTuple):
    """One file, or one folder with all that is in it: its path below the store, bytes, newest change (Unix time)."""

    name: str
    bytes: int
    changed: float


def list_files(url: str, folder: str) -> list[Entry]:
    """The files right in one folder of the store at ``url``, those with a dot in front too."""
    fs, path = files.split(files.join(url, folder))
    try:
        found = fs.ls(path, detail=True)
    except FileNotFoundError:
        return []
    return [_entry(folder, info) for info in found if info["type"] == "file"]


def list_folders(url: str, folder: str) -> list[Entry]:
    """The folders right in one folder of the store at ``url``, each with all that is in it."""
    fs, path = files.split(files.join(url, folder))
    try:
        found = fs.ls(path, detail=True)
    except FileNotFoundError:
        return []
    names = [_entry(folder, info).name for info in found if info["type"] == "directory"]
    return [_whole(url, name) for name in names]


def _whole(url: str, name: str) -> Entry:
    fs, path = files.split(files.join(url, name))
    inside = [_entry(name, info) for info in fs.find(path, detail=True).values()]
    changed = max((entry.changed for entry in inside), default=0.0)
    return Entry(name, sum(entry.bytes for entry in inside), changed)


def _entry(folder: str, info: Mapping[str, Any]) -> Entry:
    base = info["name"].rstrip("/").rsplit("/", 1)[-1]
    return Entry(f"{folder}/{base}", int(info.get("size") or 0), _changed(info))


def _changed(info: Mapping[str, Any]) -> float:
    """When the storage says that it changed; for ever young where it does not say."""
    value = next((info[name] for name in _TIMES if info.get(name) is not None), float("inf"))
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime.datetime) else float(value)


def remove(url: str, names: Iterable[str]) -> None:
    """Remove files and folders of the store at ``url``; what is gone already is fine."""
    with ThreadPoolExecutor(REMOVERS) as pool:
        list(pool.map(lambda name: _remove(files.join(url, name)), names))


def _remove(url: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        files.remove(url)
