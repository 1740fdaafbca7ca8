"""Lists the actual files in a store's folders with their ages, including temporary files, and removes files."""

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
    """A file, or a folder with its content: path below the store, size in bytes, latest change (Unix time)."""

    name: str
    bytes: int
    changed: float


def list_files(url: str, folder: str) -> list[Entry]:
    """Returns the files directly in one folder of the store at ``url``, including hidden ones."""
    return [_entry(folder, info) for info in _listed(url, folder) if info["type"] == "file"]


def list_below(url: str, folder: str) -> list[Entry]:
    """Returns all files below one folder of the store at ``url``, including hidden ones."""
    fs, path = files.split(files.join(url, folder))
    try:
        found = fs.find(path, detail=True)
    except FileNotFoundError:
        return []
    root = path.rstrip("/") + "/"
    return [
        Entry(f"{folder}/{name.removeprefix(root)}", int(info.get("size") or 0), _changed(info))
        for name, info in sorted(found.items())
        if name.startswith(root)
    ]


def list_folders(url: str, folder: str) -> list[Entry]:
    """Returns the folders directly in one folder of the store at ``url``, each with its whole content."""
    folders = [_entry(folder, info) for info in _listed(url, folder) if info["type"] == "directory"]
    return [_whole(url, entry.name) for entry in folders]


def _listed(url: str, folder: str) -> list[Mapping[str, Any]]:
    fs, path = files.split(files.join(url, folder))
    try:
        return list(fs.ls(path, detail=True))
    except FileNotFoundError:
        return []


def _whole(url: str, name: str) -> Entry:
    fs, path = files.split(files.join(url, name))
    inside = [_entry(name, info) for info in fs.find(path, detail=True).values()]
    changed = max((entry.changed for entry in inside), default=0.0)
    return Entry(name, sum(entry.bytes for entry in inside), changed)


def _entry(folder: str, info: Mapping[str, Any]) -> Entry:
    base = info["name"].rstrip("/").rsplit("/", 1)[-1]
    return Entry(f"{folder}/{base}", int(info.get("size") or 0), _changed(info))


def _changed(info: Mapping[str, Any]) -> float:
    """Returns the storage's modification time; infinity (never old) if the storage has none."""
    value = next((info[name] for name in _TIMES if info.get(name) is not None), float("inf"))
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime.datetime) else float(value)


def remove(url: str, names: Iterable[str]) -> None:
    """Removes files and folders of the store at ``url``. Ignores those that do not exist."""
    with ThreadPoolExecutor(REMOVERS) as pool:
        list(pool.map(lambda name: _remove(files.join(url, name)), names))


def _remove(url: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        files.remove(url)
