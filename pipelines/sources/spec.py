"""What a source is, in one small record, and how images are named and versioned in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from posixpath import splitext
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem

from captionbeam.pipelines.sources.urls import split_url
from captionbeam.schemas.errors import RequestError, SourceError
from captionbeam.schemas.storage import files

# What Pillow or a plug-in of it opens. A name that ends otherwise is not taken for an image.
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".avif", ".avifs", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".ico",
    ".tga",
})  # fmt: skip
_ALIASES = {"file://": "", "local://": "", "gcs://": "gs://", "s3a://": "s3://"}
_MD5 = re.compile(r"[0-9a-f]{32}")
_INVALID_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")


class SourceSpec(NamedTuple):
    """One source, or one container of it: what a worker needs to list its images.

    ``kind``: ``folder`` (all below ``url``), ``files`` (right in ``url``), ``keys`` (below ``url``, from ``first`` to
    ``last``), ``inventory`` (below ``root``, as a file of a report, read as ``report`` says, names it), ``glob``,
    ``file``, ``zip``, ``tar``, ``parquet``, ``list`` or ``coco``. ``root``: what image ids of files are relative to;
    for lists and COCO, where relative paths start.
    """

    name: str
    kind: str
    url: str
    root: str = ""
    id_column: str = ""
    uri_column: str = ""
    bytes_column: str = ""
    first: str = ""
    last: str = ""
    report: str = ""


class Ignored(NamedTuple):
    """Something a source holds that is not an image: counted, and left alone. A folder's name ends with a slash."""

    name: str


class Counted(NamedTuple):
    """What one file of an inventory report had: all its rows, and the objects of ``source`` among them.

    ``expected``: rows of all the report's files together, -1 where it does not say.
    """

    source: str
    report: str
    rows: int
    objects: int
    expected: int


@dataclass(frozen=True)
class SourceOptions:
    """How lists, Parquet and COCO annotations are to be read; what is None is found out."""

    id_column: str | None = None
    uri_column: str | None = None
    bytes_column: str | None = None
    image_root: str | None = None
    inventories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.uri_column and self.bytes_column:
            raise RequestError(
                f"uri column {self.uri_column!r} and bytes column {self.bytes_column!r} exclude each other; "
                "expected one of them"
            )


def source_name(url: str) -> str:
    """``url`` as rows remember it: absolute for local paths, one name a protocol, no slash at the end.

    Raises SourceError for fsspec's chained URLs, whose ``::`` would make locations of members ambiguous.
    """
    if not url.strip():
        raise SourceError("source '' is empty; expected a path or URL")
    if "::" in url:
        raise SourceError(f"source {url!r} is a chained URL; expected a plain path or URL")
    url = lower_scheme(url)
    for alias, protocol in _ALIASES.items():
        if url.startswith(alias):
            url = protocol + url.removeprefix(alias)
    return url if url.endswith("://") else files.absolute(url)


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The filesystem and path of ``url``. Raises RequestError for a protocol that is not installed."""
    try:
        return files.split(url)
    except (TypeError, AttributeError) as err:  # some are nothing without their options
        raise RequestError(f"{url!r} cannot be opened: {err}") from err


def lower_scheme(url: str) -> str:
    """``url`` with its protocol in small letters: ``HTTP://host/A.jpg`` is at ``http://host/A.jpg``."""
    scheme = files.scheme(url)
    return scheme.lower() + url[len(scheme) :]


def is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def suffix(url: str) -> str:
    """The lower-cased suffix of the path: ``.jpg``, for URLs without what follows ``?``."""
    path = split_url(url).path if is_http(url) else url
    return splitext(path)[1].lower()


def is_image_name(name: str) -> bool:
    """Whether a file or member of this name is taken for an image: by suffix, but no Mac resource fork."""
    if "__MACOSX/" in name or name.rsplit("/", 1)[-1].startswith("._"):
        return False
    return suffix(name) in IMAGE_SUFFIXES


def relative(path: str, root: str) -> str:
    """``path`` as seen from ``root``; its last part where ``root`` is the file itself.

    One slash alone is left out: ``photos/a.jpg`` and ``photos//a.jpg`` are two keys.
    """
    inside = path.removeprefix(root).removeprefix("/") if path.startswith(root) else path
    return inside or path.rstrip("/").rsplit("/", 1)[-1]


def printable(name: str) -> str:
    r"""``name`` with each byte that is not UTF-8 (a surrogate, in Python's names of files) as ``\xe9``."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate, out of JSON
        return name.encode("utf-8", "backslashreplace").decode()


def raw_name(name: str) -> str:
    r"""What ``printable`` was given, where ``name`` has a ``\xe9`` in it."""
    parts = re.split(_INVALID_BYTE, name)
    encoded = (bytes([int(part, 16)]) if i % 2 else part.encode() for i, part in enumerate(parts))
    return b"".join(encoded).decode("utf-8", "surrogateescape")


def local_path(path: str) -> str:
    """The file that ``path`` names on this disk, bytes that are not UTF-8 put back (see ``printable``)."""
    return path if "\\x" not in path or os.path.lexists(path) else raw_name(path)


def version_of(info: Mapping[str, Any]) -> str | None:
    """The version of a file, from its filesystem's listing: generation, ETag, or size and time of change."""
    for key in ("generation", "ETag", "etag"):
        if info.get(key):
            return str(info[key]).strip('"')
    for key in ("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "created"):
        if info.get(key) is not None and info.get("size") is not None:
            return f"{info['size']}-{_stamp(info[key])}"
    return None


def digest_of(info: Mapping[str, Any]) -> str:
    """The MD5 of a file's content, where its listing has it: on gs, and on s3 unless it was uploaded in parts."""
    etag = str(info.get("ETag") or "").strip('"')
    return str(info.get("md5Hash") or (etag if _MD5.fullmatch(etag) else ""))


def _stamp(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
