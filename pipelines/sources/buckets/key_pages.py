"""The keys of a bucket, page by page: of one level, or of a range of all keys.

GCS and S3 list keys in the order of their UTF-8 bytes (which is Python's order of strings) and begin where they are
told to. So the keys below a prefix are cut into ranges that workers list side by side, and nobody lists all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem

PAGE = 1000  # entries, the most that both give at a time


class Keys(NamedTuple):
    """The keys of ``bucket`` with ``prefix``, from ``start`` to ``end`` where these are not empty.

    A key that is a bound itself belongs to the range that it starts on GCS (``startOffset`` is inclusive,
    ``endOffset`` is not), and to the one that it ends on S3 (``StartAfter``). Either way it belongs to one.
    """

    bucket: str
    prefix: str
    start: str = ""
    end: str = ""


class Page(NamedTuple):
    """One answer: objects, each with ``key``, ``size`` and what tells its version and digest; folders; the last one?"""

    objects: list[dict[str, Any]]
    prefixes: list[str]
    is_last: bool


def has_keys(fs: AbstractFileSystem) -> bool:
    """Whether ``fs`` is one of those that can be listed by ranges of keys."""
    return _lister(fs) is not None


def keys_below(fs: AbstractFileSystem, path: str) -> Keys:
    """All keys below the folder ``path``, which begins with the bucket's name."""
    bucket, key = fs.split_path(path)[:2]
    return Keys(bucket, f"{key.rstrip('/')}/" if key.strip("/") else "")


def pages(fs: AbstractFileSystem, keys: Keys, delimiter: str = "", size: int = 0) -> Iterator[Page]:
    """The range's pages, each asked for when it is wanted; with a delimiter, of the level of ``keys.prefix`` alone.

    ``size``: entries a page, if not ``PAGE``. Raises what the filesystem raises.
    """
    lister = _lister(fs)
    if lister is None:
        raise ValueError(f"{fs.protocol} has no keys in order; expected gs or s3")
    yield from lister(fs, keys, delimiter, size or PAGE)


def is_marker(key: str) -> bool:
    """Whether ``key`` is an object that stands for a folder, as consoles make them."""
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
    """S3 is not told where to stop."""
    if not end:
        return page
    objects = [item for item in page.objects if item["key"] <= end]
    prefixes = [prefix for prefix in page.prefixes if prefix <= end]
    is_past = len(objects) < len(page.objects) or len(prefixes) < len(page.prefixes)
    return Page(objects, prefixes, page.is_last or is_past)


def _object(item: Mapping[str, Any], key: str, size: str) -> dict[str, Any]:
    return {**item, "key": item[key], "size": int(item.get(size, 0))}


_LISTERS: dict[str, Callable[..., Iterator[Page]]] = {"gs": _gcs_pages, "s3": _s3_pages}
