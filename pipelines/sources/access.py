"""Opens containers and walks folders, with fast paths for local disks and fsspec for all other storage."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from fsspec import AbstractFileSystem

from captionbeam.pipelines.fetch.byte_ranges import LISTING
from captionbeam.pipelines.fetch.errors import reading
from captionbeam.pipelines.fetch.reads import check_ranges, with_retries
from captionbeam.pipelines.fetch.urls import filesystem, is_http, local_path, printable
from captionbeam.pipelines.sources.buckets import key_pages
from captionbeam.pipelines.sources.buckets.key_pages import Keys
from captionbeam.pipelines.sources.spec import digest_of, version_of
from captionbeam.schemas.storage import files


class FileInfo(NamedTuple):
    """One file of a listing. ``size`` is -1 and ``version`` None if the listing does not contain them."""

    url: str
    size: int
    version: str | None
    is_folder: bool = False
    is_special: bool = False
    digest: str = ""


def stat_url(url: str) -> FileInfo:
    """Returns the current state of the file at ``url``, without a cache. Raises the filesystem's errors."""
    fs, path = filesystem(url)
    if files.is_local(fs):
        return _local_info(local_path(path))
    fs.invalidate_cache(fs._parent(path))
    return _remote_info(url, with_retries(LISTING)(fs.info, path))


def canonical(url: str) -> str:
    """Returns ``url`` as listings spell it, so ids can be cut from paths: local paths without a protocol."""
    fs, path = filesystem(url)
    return path if files.is_local(fs) else _url(fs, path)


def file_version(url: str) -> str | None:
    """Returns the version of a container, or None if the storage has none. Raises SourceError."""
    with reading(url):
        return stat_url(url).version


def open_stream(url: str, block: int) -> BinaryIO:
    """Opens a seekable stream of ``url`` that reads ahead ``block`` bytes. Raises the filesystem's errors."""
    if is_http(url):
        check_ranges(url)
    fs, path = filesystem(url)
    return open(local_path(path), "rb") if files.is_local(fs) else fs.open(path, "rb", block_size=block)


@contextmanager
def open_container(url: str, block: int) -> Iterator[BinaryIO]:
    """Like ``open_stream``, but raises SourceError or SystemicError for errors while it is open."""
    with reading(url), open_stream(url, block) as stream:
        yield stream


def walk(url: str, enters: Callable[[str], bool] | None = None, root: str = "") -> Iterator[FileInfo]:
    """Yields the files below ``url``, and the folders that ``enters`` rejects. Enters all folders if it is None.

    Local folders and buckets are streamed; other storage keeps one folder's listing in memory. Raises if a folder
    cannot be listed, so a listing is never silently incomplete (fsspec's ``walk`` skips such folders). Links to a
    parent folder, or to ``root`` if only a part of it is walked, are not followed.
    """
    fs, path = filesystem(url)
    if files.is_local(fs):
        part = root and root.rstrip("/") != url.rstrip("/")
        yield from _walk_local(local_path(path), enters, (_identity(root),) if part else ())
    elif not key_pages.has_keys(fs):
        yield from _walk_remote(fs, path, enters)
    elif enters is None:
        yield from list_keys(fs, key_pages.keys_below(fs, path))
    else:
        yield from _walk_levels(fs, key_pages.keys_below(fs, path), enters)


def list_keys(fs: AbstractFileSystem, keys: Keys) -> Iterator[FileInfo]:
    """Yields every object in a range of keys, except folder markers. Raises the filesystem's errors."""
    for page in key_pages.pages(fs, keys):
        yield from _objects(fs, keys.bucket, page)


def has_keys_below(url: str) -> bool:
    """Returns whether ``url``, an object in a bucket, is also a folder."""
    fs, path = filesystem(url)
    if not key_pages.has_keys(fs):
        return False
    with reading(url):
        return bool(next(key_pages.pages(fs, key_pages.keys_below(fs, path), size=1)).objects)


def _walk_levels(fs: AbstractFileSystem, keys: Keys, enters: Callable[[str], bool]) -> Iterator[FileInfo]:
    levels = [keys]
    while levels:
        level = levels.pop()
        for page in key_pages.pages(fs, level, delimiter="/"):
            yield from _objects(fs, keys.bucket, page)
            for prefix in page.prefixes:
                url = _url(fs, f"{keys.bucket}/{prefix.removesuffix('/')}")
                if enters(url):
                    levels.append(level._replace(prefix=prefix))
                else:
                    yield FileInfo(url, -1, None, is_folder=True)


def _objects(fs: AbstractFileSystem, bucket: str, page: key_pages.Page) -> Iterator[FileInfo]:
    for item in page.objects:
        if not key_pages.is_marker(item["key"]):
            yield _remote_info(_url(fs, f"{bucket}/{item['key']}"), item)


def _walk_local(
    folder: str, enters: Callable[[str], bool] | None, above: tuple[tuple[int, int], ...]
) -> Iterator[FileInfo]:
    identity = _identity(folder)
    if identity in above:  # a symbolic link to a parent folder
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield _local_info(entry.path)
            elif enters is None or enters(printable(entry.path)):
                yield from _walk_local(entry.path, enters, (*above, identity))
            else:
                yield FileInfo(printable(entry.path), -1, None, is_folder=True)


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _walk_remote(
    fs: AbstractFileSystem, root: str, enters: Callable[[str], bool] | None
) -> Iterator[FileInfo]:
    folders = [root]
    while folders:
        folder = folders.pop()
        fs.invalidate_cache(folder)  # the cached listing may be outdated
        found = with_retries(LISTING)(fs.ls, folder, detail=True)
        fs.invalidate_cache(folder)  # keep memory bounded for millions of folders
        for entry in found:
            info = _remote_info(_url(fs, entry["name"]), entry)
            if entry["name"].rstrip("/") == folder.rstrip("/"):  # the marker object of an empty folder
                continue
            if info.is_folder and (enters is None or enters(info.url)):
                folders.append(entry["name"])
            else:
                yield info


def _local_info(path: str) -> FileInfo:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):  # a broken link is listed; fetching it reports the error
            return FileInfo(printable(path), -1, None)
        raise
    is_folder = stat.S_ISDIR(found.st_mode)
    is_special = not is_folder and not stat.S_ISREG(found.st_mode)
    return FileInfo(
        printable(path), found.st_size, f"{found.st_size}-{found.st_mtime_ns}", is_folder, is_special
    )


def _remote_info(url: str, info: dict[str, Any]) -> FileInfo:
    size = info.get("size")
    known = -1 if size is None else int(size)
    is_folder = info.get("type") == "directory"
    return FileInfo(url, known, version_of(info), is_folder, digest=digest_of(info))


def _url(fs: AbstractFileSystem, path: str) -> str:
    return path if is_http(path) else fs.unstrip_protocol(path)
