"""The specification of a source, and the names and versions of its images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from posixpath import splitext
from typing import Any, NamedTuple

from fsspec.core import has_magic

from captionbeam.pipelines.fetch.urls import is_http, local_path, lower_scheme, split_url
from captionbeam.schemas.errors import RequestError, SourceError
from captionbeam.schemas.storage import files

# Suffixes that Pillow and its plug-ins open. Files with other suffixes are not images.
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",
    ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".ico",
    ".tga",
})  # fmt: skip
ARCHIVES = {".zip": "zip", ".tar": "tar", ".parquet": "parquet"}
"""Suffix -> kind of containers, which a folder or glob may hold several of."""
EXPECTED = (
    f"a folder, a glob, an image, {', '.join(ARCHIVES)}, a list (.txt, .csv, .tsv, .jsonl) or COCO's .json"
)
_ALIASES = {"file://": "", "local://": "", "gcs://": "gs://", "s3a://": "s3://"}
_MD5 = re.compile(r"[0-9a-f]{32}")


class SourceSpec(NamedTuple):
    """A source or one of its containers: what a worker needs to list its images.

    ``kind``: ``folder`` (all files below ``url``), ``files`` (files directly in ``url``), ``keys`` (keys below
    ``url`` from ``first`` to ``last``), ``inventory`` (objects below ``root`` in a file of an inventory report, with
    the format in ``report``), ``glob``, ``file``, ``zip``, ``tar``, ``parquet``, ``list`` or ``coco``. ``root``: the
    base of file ids; for lists and COCO, the base of relative paths. ``keep``: the columns to keep; ``used``: those of
    them that prompts use. ``header``: the columns that were seen; empty on workers. ``needs_ids``:
    the user named the column of ids, so each row must have one.
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
    keep: Sequence[str] = ()
    used: Sequence[str] = ()
    header: Sequence[str] = ()
    needs_ids: bool = False


class Ignored(NamedTuple):
    """A file of a source that is not an image. It is counted and skipped. Folder names end with a slash."""

    name: str


class Counted(NamedTuple):
    """Counts of one file of an inventory report: all its rows, and the objects of ``source`` among them.

    ``expected``: rows of all files of the report, -1 if the manifest does not state it.
    """

    source: str
    report: str
    rows: int
    objects: int
    expected: int


class Columns(NamedTuple):
    """Names and types of the columns that a container's images have, as from ``formats.kept.schema_text``."""

    schema: str


@dataclass(frozen=True)
class SourceOptions:
    """How to read lists, Parquet and COCO annotations. Values of None are detected.

    ``keep_columns``: names of columns to keep beside the images; ``all`` for all but those of ids, URIs and bytes.
    ``used_columns``: names of columns that prompts use, which are kept too. ``may_lack``: no source need have the
    columns to keep.
    """

    id_column: str | None = None
    uri_column: str | None = None
    bytes_column: str | None = None
    image_root: str | None = None
    inventories: tuple[str, ...] = ()
    keep_columns: tuple[str, ...] = ()
    used_columns: tuple[str, ...] = ()
    may_lack: bool = False

    def __post_init__(self) -> None:
        if self.uri_column and self.bytes_column:
            raise RequestError(
                f"uri column {self.uri_column!r} and bytes column {self.bytes_column!r} exclude each other; "
                "expected one of them"
            )


def source_name(url: str) -> str:
    """Returns ``url`` as stored in rows: absolute for local paths, one name per protocol, no slash at the end.

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


def missing(name: str) -> SourceError:
    """Returns the error of a source that does not exist."""
    return SourceError(f"source {name!r} does not exist; expected {EXPECTED}")


def check_exists(url: str) -> None:
    """Raises SourceError if ``url`` is a local path, not a glob, where nothing is."""
    name = source_name(url)
    if not (files.scheme(name) or has_magic(name) or os.path.lexists(local_path(name))):
        raise missing(name)


def suffix(url: str) -> str:
    """Returns the suffix of the path in lower case, such as ``.jpg``. Ignores the query of HTTP URLs."""
    path = split_url(url).path if is_http(url) else url
    return splitext(path)[1].lower()


def is_image_name(name: str) -> bool:
    """Returns whether a file or member counts as an image: by suffix, except macOS resource forks."""
    if "__MACOSX/" in name or name.rsplit("/", 1)[-1].startswith("._"):
        return False
    return suffix(name) in IMAGE_SUFFIXES


def relative(path: str, root: str) -> str:
    """Returns ``path`` relative to ``root``; its last part if ``root`` is the file itself.

    Removes a single slash only, as ``photos/a.jpg`` and ``photos//a.jpg`` are different keys.
    """
    inside = path.removeprefix(root).removeprefix("/") if path.startswith(root) else path
    return inside or path.rstrip("/").rsplit("/", 1)[-1]


def version_of(info: Mapping[str, Any]) -> str | None:
    """Returns a file's version from its listing: generation, ETag, or size and modification time."""
    for key in ("generation", "ETag", "etag"):
        if info.get(key):
            return str(info[key]).strip('"')
    for key in ("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "created"):
        if info.get(key) is not None and info.get("size") is not None:
            stamp = info[key]
            return f"{info['size']}-{stamp.isoformat() if hasattr(stamp, 'isoformat') else stamp}"
    return None


def digest_of(info: Mapping[str, Any]) -> str:
    """Returns the MD5 of a file's content from its listing: on gs, and on s3 for uploads in one part; else ''."""
    etag = str(info.get("ETag") or "").strip('"')
    return str(info.get("md5Hash") or (etag if _MD5.fullmatch(etag) else ""))
