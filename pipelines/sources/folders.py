"""Lists folders, bucket prefixes, globs and single files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import takewhile

from fsspec import AbstractFileSystem
from fsspec.utils import glob_translate

from captionbeam.pipelines.fetch.errors import reading
from captionbeam.pipelines.fetch.urls import filesystem, is_http
from captionbeam.pipelines.sources import access
from captionbeam.pipelines.sources.access import FileInfo
from captionbeam.pipelines.sources.buckets import inventory, key_pages, key_ranges
from captionbeam.pipelines.sources.buckets.key_pages import Keys
from captionbeam.pipelines.sources.spec import Counted, Ignored, SourceSpec, is_image_name, relative
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files

_MAGIC = re.compile(r"[*?\[]")
_ESCAPED = re.compile(r"\[([*?\[])\]")


def is_glob(url: str) -> bool:
    """Returns whether ``url`` is a glob pattern. Always False for HTTP, whose URLs may contain ``?`` and ``[``."""
    return not is_http(url) and _MAGIC.search(url) is not None


def escaped(pattern: str) -> str:
    """Escapes the leading folders of ``pattern`` that exist literally, such as ``we [1]`` in ``we [1]/*.jpg``."""
    parts = pattern.split("/")
    known = 0
    for n, part in enumerate(parts[:-1], 1):
        if _MAGIC.search(part) and not files.exists("/".join(parts[:n])):
            break
        known = n
    return "/".join([*(_MAGIC.sub(r"[\g<0>]", part) for part in parts[:known]), *parts[known:]])


def glob_root(pattern: str) -> str:
    """Returns the folder above the first wildcard part of ``pattern``, which ``escaped`` returned."""
    plain = takewhile(lambda part: not _MAGIC.search(_ESCAPED.sub("", part)), pattern.split("/"))
    return "/".join(_ESCAPED.sub(r"\1", part) for part in plain)


def split_folder(spec: SourceSpec) -> Iterator[SourceSpec]:
    """Splits a folder for parallel listing: ranges of a bucket's keys, or its own files and each subfolder."""
    fs, path = filesystem(spec.url)
    if key_pages.has_keys(fs):
        yield from _ranges(spec, fs, key_pages.keys_below(fs, path))
        return
    yield spec._replace(kind="files")
    with reading(spec.url):
        for found in access.walk(spec.url, enters=_never):
            if found.is_folder:
                yield spec._replace(url=found.url.rstrip("/"))


def split_range(spec: SourceSpec) -> Iterator[SourceSpec]:
    """Splits a range of keys further if it exceeds a few pages, since one folder may hold most of a bucket."""
    fs, path = filesystem(spec.url)
    yield from _ranges(spec, fs, _keys(spec, fs, path))


def _ranges(spec: SourceSpec, fs: AbstractFileSystem, keys: Keys) -> Iterator[SourceSpec]:
    with reading(spec.url):
        for part in key_ranges.cut(fs, keys):
            yield spec._replace(kind="keys", first=part.start, last=part.end)


def _keys(spec: SourceSpec, fs: AbstractFileSystem, path: str) -> Keys:
    return key_pages.keys_below(fs, path)._replace(start=spec.first, end=spec.last)


def list_folder(spec: SourceSpec) -> Iterator[ImageRef | Ignored]:
    """Yields the images at any depth below ``spec.url``, or only directly in it for the kind ``files``."""
    with reading(spec.url):
        for found in access.walk(spec.url, _never if spec.kind == "files" else None, spec.root):
            if not found.is_folder:
                yield _ref_or_ignored(found, spec)


def list_range(spec: SourceSpec) -> Iterator[ImageRef | Ignored]:
    """Yields the images in a range of a bucket's keys."""
    fs, path = filesystem(spec.url)
    with reading(spec.url):
        for found in access.list_keys(fs, _keys(spec, fs, path)):
            yield _ref_or_ignored(found, spec)


def list_inventory(spec: SourceSpec) -> Iterator[ImageRef | Ignored | Counted]:
    """Yields the images in one file of an inventory report, and its counts for ``check_counts``."""
    for found in inventory.list_report(spec):
        yield found if isinstance(found, Counted) else _ref_or_ignored(found, spec)


def list_glob(spec: SourceSpec) -> Iterator[ImageRef | Ignored]:
    """Yields the images that match the pattern ``spec.url``."""
    for found in matches(spec.url):
        yield Ignored(f"{found.url.rstrip('/')}/") if found.is_folder else _ref_or_ignored(found, spec)


def list_file(spec: SourceSpec) -> Iterator[ImageRef]:
    """Yields the single image at ``spec.url``, whatever its suffix."""
    with reading(spec.url):
        yield _ref(access.stat_url(spec.url), spec)


def matches(pattern: str) -> Iterator[FileInfo]:
    """Yields files and folders that match ``pattern``. Lists only folders that can contain matches."""
    root = glob_root(pattern)
    fits = re.compile(glob_translate(pattern)).match
    with reading(pattern):
        for found in access.walk(root or "/", enters=_can_hold(pattern)):
            if fits(found.url.rstrip("/")):
                yield found


def _can_hold(pattern: str) -> Callable[[str], bool]:
    """Returns a function that tells whether a folder can contain matches of ``pattern``."""
    parts = pattern.split("/")
    deepest = parts.index("**") if "**" in parts else None
    prefixes = [re.compile(glob_translate("/".join(parts[:n]))).match for n in range(1, len(parts))]

    def enters(folder: str) -> bool:
        depth = folder.rstrip("/").count("/") + 1
        if deepest is not None and depth > deepest:
            return bool(prefixes[deepest - 1]("/".join(folder.split("/")[:deepest])))
        return depth < len(parts) and bool(prefixes[depth - 1](folder.rstrip("/")))

    return enters


def _ref_or_ignored(found: FileInfo, spec: SourceSpec) -> ImageRef | Ignored:
    if found.is_special or not is_image_name(found.url):
        return Ignored(found.url)
    return _ref(found, spec)


def _ref(found: FileInfo, spec: SourceSpec) -> ImageRef:
    return ImageRef(
        image_id=relative(found.url, spec.root),
        uri=found.url,
        source=spec.name,
        version=found.version,
        length=found.size,
        digest=found.digest,
    )


def _never(folder: str) -> bool:
    return False
