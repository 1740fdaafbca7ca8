"""Caption files: finds them (also inside a zip), opens them, and reads them by row or by image."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from posixpath import basename
from typing import BinaryIO, NamedTuple

import fsspec

from captionbeam.pipelines.sources.folders import escaped
from captionbeam.pipelines.tokens.caption_rows import READERS, CaptionRecord
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files


class Reference(NamedTuple):
    """All human captions of one image."""

    image_id: str
    file_name: str
    captions: list[str]


class CaptionFile(NamedTuple):
    """An existing caption file: ``url``, and the ``member`` to read if it is a zip."""

    url: str
    member: str = ""

    def __str__(self) -> str:
        return f"{self.url}: {self.member}" if self.member else self.url


def find_captions(url: str, member: str | None = None) -> list[CaptionFile]:
    """Returns the caption files at ``url``, a path or fsspec URL with or without wildcards.

    For a zip, its only caption file or the one named by ``member``. Raises RequestError.
    """
    is_pattern = any(sign in url for sign in "*?[") and not files.exists(url)
    urls = _expand(url) if is_pattern else [url]
    return [_choose(found, member) for found in urls]


def read_captions(url: str, member: str | None = None) -> Iterator[CaptionRecord]:
    """Yields the captions at ``url`` in the file's order. Raises RequestError at the first invalid row."""
    for found in find_captions(url, member):
        with opened(found) as stream:
            yield from _reader_for(found)(stream, str(found))


def read_references(url: str, member: str | None = None, split: str | None = None) -> list[Reference]:
    """Returns the captions at ``url`` by image, in the file's order; only those of ``split`` if given."""
    references: dict[str, Reference] = {}
    for record in read_captions(url, member):
        if split is None or record.split == split:
            reference = references.setdefault(record.key, Reference(record.image_id, record.file_name, []))
            reference.captions.append(record.caption)
    return list(references.values())


def _expand(url: str) -> list[str]:
    fs, path = files.split(escaped(url))
    found = [fs.unstrip_protocol(name) if files.scheme(url) else name for name in sorted(fs.glob(path))]
    if not found:
        raise RequestError(f"no file matches {url!r}; expected at least one caption file")
    return found


def _choose(url: str, member: str | None) -> CaptionFile:
    if not files.exists(url):
        raise RequestError(f"there is no caption file {url!r}; expected .json, .jsonl, .parquet or .zip")
    if not _suffixed(url).endswith(".zip"):
        _reader_for(CaptionFile(url))
        return CaptionFile(url)
    with _opened_zip(url) as archive:
        listed = [name for name in archive.namelist() if not name.startswith("__MACOSX")]
        names = [name for name in listed if name.lower().endswith(tuple(READERS))]
    return CaptionFile(url, _choose_member(url, names, member))


def _choose_member(url: str, names: list[str], member: str | None) -> str:
    if member is not None:
        fitting = [name for name in names if member in (name, basename(name))]
    else:
        fitting = [name for name in names if "caption" in basename(name).lower()] or names
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(repr(name) for name in fitting or names)
    if not listed:
        raise RequestError(f"{url!r} holds no caption file; expected a {', '.join(READERS)} in it")
    if member is not None:
        raise RequestError(f"{url!r} holds no single member {member!r}; its caption files: {listed}")
    raise RequestError(
        f"{url!r} holds several caption files ({listed}); "
        f"choose one with --member, or give its URL: zip://{fitting[0]}::{url}"
    )


def _suffixed(url: str) -> str:
    """Returns the part of ``url`` with the file's suffix: in ``zip://c.json::a.zip`` the first."""
    return url.split("::")[0].lower()


@contextmanager
def _opened_zip(url: str) -> Iterator[zipfile.ZipFile]:
    with _readable(url), fsspec.open(url, "rb") as stream, zipfile.ZipFile(stream) as archive:
        yield archive


@contextmanager
def opened(found: CaptionFile) -> Iterator[BinaryIO]:
    """Opens a caption file, decompressed."""
    if found.member:
        with _opened_zip(found.url) as archive, archive.open(found.member) as member:
            yield member  # type: ignore[misc]
    else:
        with _readable(found.url), fsspec.open(found.url, "rb", compression="infer") as stream:
            yield stream


@contextmanager
def _readable(url: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as err:
        raise RequestError(f"{url!r} cannot be unpacked ({err}); expected a whole zip or gzip file") from err


def _reader_for(found: CaptionFile) -> Callable[[BinaryIO, str], Iterator[CaptionRecord]]:
    name = (found.member.lower() or _suffixed(found.url)).removesuffix(".gz")
    for suffix, reader in READERS.items():
        if name.endswith(suffix):
            return reader
    raise RequestError(f"{str(found)!r} is of no known kind; expected {', '.join(READERS)} or .zip")
