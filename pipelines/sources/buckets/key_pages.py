"""Lists the keys of a bucket page by page: one folder level, or a range of all keys.

GCS and S3 list keys in the order of their UTF-8 bytes (the same as Python's string order) and can start at a given
key. Prefixes can therefore be cut into ranges that workers list in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem

PAGE = 1000  # entries per page, the maximum of both services


class Keys(NamedTuple):
    """The keys of ``bucket`` with ``prefix``, from ``start`` to ``end`` if these are not empty.

    A key equal to a bound belongs to the range that starts with it on GCS (``startOffset`` is inclusive,
    ``endOffset`` exclusive), and to the range that ends with it on S3 (``StartAfter``). Either way it is in exactly
    one range.
    """

    bucket: str
    prefix: str
    start: str = ""
    end: str = ""


class Page(NamedTuple):
    """One response: objects (each with ``key``, ``size``, version and digest fields), and folders."""

    objects: list[dict[str, Any]]
    prefixes: list[str]
    is_last: bool


def has_keys(fs: AbstractFileSystem) -> bool:
    """Returns whether ``fs`` can list ranges of keys."""
    return _lister(fs) is not None


def keys_below(fs: AbstractFileSystem, path: str) -> Keys:
    """Returns all keys below the folder ``path``, which starts with the bucket's name."""
    bucket, key = fs.split_path(path)[:2]
    return Keys(bucket, f"{key.rstrip('/')}/" if key.strip("/") else "")


def pages(fs: AbstractFileSystem, keys: Keys, delimiter: str = "", size: int = 0) -> Iterator[Page]:
    """Yields the pages of a range, each requested when needed; with a delimiter, only the level of ``keys.prefix``.

    ``size``: entries per page, by default ``PAGE``. Raises the filesystem's errors.
    """
    lister = _lister(fs)
    if lister is None:
        raise ValueError(f"{fs.protocol} has no keys in order; expected gs or s3")
    yield from lister(fs, keys, delimiter, size or PAGE)


def is_marker(key: str) -> bool:
    """Returns whether ``key`` is an object that represents a folder, as cloud consoles create them."""
    return not key or key.endswith("/")


def _lister(fs: AbstractFileSystem) -> Callable[..., Iterator[Page]] | None:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return next((_LISTERS[name] for name in protocols if name in _LISTERS), None)


def _gcs_pages(fs: Any, keys: Keys, delimiter: str, size: int) -> Iterator[Page]:
    asked = {
        "prefix": keys.prefix,
        "startOffset": keys.start,
        "endOffset": keys.end,
        "delimiter": delimiter,
        "fields": "nextPageToken,prefixes,items(name,size,generation,md5Hash)",
    }
    wanted: dict[str, Any] = {name: value for name, value in asked.items() if value}
    while True:
        found = fs.call("GET", "b/{}/o", keys.bucket, json_out=True, maxResults=size, **wanted)
        objects = [_object(item, "name", "size") for item in found.get("items", [])]
        token = found.get("nextPageToken")
        yield Page(objects, list(found.get("prefixes", [])), not token)
        if not token:
            return
        wanted["pageToken"] = token


def _s3_pages(fs: Any, keys: Keys, delimiter: str, size: int) -> Iterator[Page]:
    asked = {"Prefix": keys.prefix, "StartAfter": keys.start, "Delimiter": delimiter}
    wanted: dict[str, Any] = {name: value for name, value in asked.items() if value}
    while True:
        found = fs.call_s3("list_objects_v2", Bucket=keys.bucket, MaxKeys=size, **wanted)
        page = Page(
            [_object(item, "Key", "Size") for item in found.get("Contents", [])],
            [each["Prefix"] for each in found.get("CommonPrefixes", [])],
            not found.get("IsTruncated"),
        )
        page = _before_end(page, keys.end)
        yield page
        if page.is_last:
            return
        wanted["ContinuationToken"] = found["NextContinuationToken"]


def _before_end(page: Page, end: str) -> Page:
    """Drops keys after ``end``, as S3 has no parameter for it."""
    if not end:
        return page
    objects = [item for item in page.objects if item["key"] <= end]
    prefixes = [prefix for prefix in page.prefixes if prefix <= end]
    is_past = len(objects) < len(page.objects) or len(prefixes) < len(page.prefixes)
    return Page(objects, prefixes, page.is_last or is_past)


def _object(item: Mapping[str, Any], key: str, size: str) -> dict[str, Any]:
    return {**item, "key": item[key], "size": int(item.get(size, 0))}


_LISTERS: dict[str, Callable[..., Iterator[Page]]] = {"gs": _gcs_pages, "s3": _s3_pages}
