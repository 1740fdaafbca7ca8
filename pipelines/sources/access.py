"""Opening containers and walking folders: the local disk fast, everything else through fsspec."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from fsspec import AbstractFileSystem

from captionbeam.pipelines.fetch.byte_ranges import LISTING
from captionbeam.pipelines.fetch.reads import check_ranges, with_retries
from captionbeam.pipelines.sources.buckets import key_pages
from captionbeam.pipelines.sources.buckets.key_pages import Keys
from captionbeam.pipelines.sources.errors import reading
from captionbeam.pipelines.sources.spec import (
    digest_of,
    filesystem,
    is_http,
    local_path,
    printable,
    version_of,
)
from captionbeam.schemas.storage import files


class FileInfo(NamedTuple):
    """One file as a listing shows it. ``size`` is -1 and ``version`` None where the listing does not say."""

    url: str
    size: int
    version: str | None
    is_folder: bool = False
    is_special: bool = False
    digest: str = ""


def stat_url(url: str) -> FileInfo:
    """What is at ``url`` now, asked of the storage. Raises what the filesystem raises."""
    fs, path = filesystem(url)
    if files.is_local(fs):
        return _local_info(local_path(path))
    fs.invalidate_cache(fs._parent(path))
    return _remote_info(url, with_retries(LISTING)(fs.info, path))


def canonical(url: str) -> str:
    """``url`` as listings spell it, so that ids can be cut from paths: local paths without a protocol."""
    fs, path = filesystem(url)
    return path if files.is_local(fs) else _url(fs, path)


def file_version(url: str) -> str | None:
    """The version of a container, or None where its storage tells none. Raises SourceError."""
    with reading(url):
        return stat_url(url).version


def open_stream(url: str, block: int) -> BinaryIO:
    """A seekable stream over ``url`` that reads ahead ``block`` bytes. Raises what the filesystem raises."""
    if is_http(url):
        check_ranges(url)
    fs, path = filesystem(url)
    return open(local_path(path), "rb") if files.is_local(fs) else fs.open(path, "rb", block_size=block)


@contextmanager
def open_container(url: str, block: int) -> Iterator[BinaryIO]:
    """``open_stream``, and whatever goes wrong while it is open raises SourceError or SystemicError."""
    with reading(url), open_stream(url, block) as stream:
        yield stream


def walk(url: str, enters: Callable[[str], bool] | None = None, root: str = "") -> Iterator[FileInfo]:
    """Files below ``url``, and the folders that ``enters`` refuses; all files, where it is None.

    Local folders and buckets are streamed; of others one folder's listing is in memory. A folder that cannot be
    listed raises: what looks like a complete listing is one. (fsspec's ``walk`` leaves such folders out, unsaid.)
    A link back to a folder above, or to ``root`` where the walk is of a part of it, is not followed.
    """
    fs, path = filesystem(url)
    if files.is_local(fs):
        part = root and root.rstrip("/") != url.rstrip("/")
        yield from _walk_local(local_path(path), enters or _always, (_identity(root),) if part else ())
    elif not key_pages.has_keys(fs):
        yield from _walk_remote(fs, path, enters or _always)
    elif enters is None:
        yield from list_keys(fs, key_pages.keys_below(fs, path))
    else:
        yield from _walk_levels(fs, key_pages.keys_below(fs, path), enters)


def list_keys(fs: AbstractFileSystem, keys: Keys) -> Iterator[FileInfo]:
    """Every object of a range of keys, but those that stand for folders. Raises what the filesystem raises."""
    for page in key_pages.pages(fs, keys):
        yield from _objects(fs, keys.bucket, page)


def has_keys_below(url: str) -> bool:
    """Whether ``url`` is a folder of a bucket too, where it is an object."""
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


def _always(folder: str) -> bool:
    return True


def _walk_local(folder: str, enters: Callable, above: tuple[tuple[int, int], ...]) -> Iterator[FileInfo]:
    identity = _identity(folder)
    if identity in above:  # a symbolic link that leads back up
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield _local_info(entry.path)
            elif enters(printable(entry.path)):
                yield from _walk_local(entry.path, enters, (*above, identity))
            else:
                yield FileInfo(printable(entry.path), -1, None, is_folder=True)


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _walk_remote(fs: AbstractFileSystem, root: str, enters: Callable) -> Iterator[FileInfo]:
    folders = [root]
    while folders:
        folder = folders.pop()
        fs.invalidate_cache(folder)  # an old listing may lie there
        found = with_retries(LISTING)(fs.ls, folder, detail=True)
        fs.invalidate_cache(folder)  # nor is this one kept: a million folders would fill the memory
        for entry in found:
            info = _remote_info(_url(fs, entry["name"]), entry)
            if entry["name"].rstrip("/") == folder.rstrip("/"):  # the marker object of an empty folder
                continue
            if info.is_folder and enters(info.url):
                folders.append(entry["name"])
            else:
                yield info


def _local_info(path: str) -> FileInfo:
    found = _stat(path)
    if found is None:
        return FileInfo(printable(path), -1, None)
    is_folder = stat.S_ISDIR(found.st_mode)
    is_special = not is_folder and not stat.S_ISREG(found.st_mode)
    return FileInfo(
        printable(path), found.st_size, f"{found.st_size}-{found.st_mtime_ns}", is_folder, is_special
    )


def _stat(path: str) -> os.stat_result | None:
    """None for a broken link, which is listed: fetching it says that it leads nowhere."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            return None
        raise


def _remote_info(url: str, info: dict[str, Any]) -> FileInfo:
    size = info.get("size")
    known = -1 if size is None else int(size)
    is_folder = info.get("type") == "directory"
    return FileInfo(url, known, version_of(info), is_folder, digest=digest_of(info))


def _url(fs: AbstractFileSystem, path: str) -> str:
    return path if is_http(path) else fs.unstrip_protocol(path)
