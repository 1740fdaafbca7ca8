"""Lists of URIs: one a line, CSV with a header, JSON lines (all also ``.gz``), Parquet without image bytes.

Nothing is asked about an image while listing but the stat of a local file: versions of the others are null.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import fsspec

from pipelines import addresses
from pipelines.reads import is_local
from pipelines.sources import access, parquet
from pipelines.sources.spec import SourceSpec, lower_scheme, printable
from pipelines.sources.trouble import reading
from pipelines.sources.urls import split_url
from schemas.errors import SourceError
from schemas.records import ImageRef

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")
URI_COLUMNS = (
    "uri",
    "url",
    "image_url",
    "image_uri",
    "path",
    "file_path",
    "image_path",
    "file_name",
    "filename",
)
ID_COLUMNS = ("image_id", "id", "key", "__key__")
_ROWS = 1 << 14


def list_rows(spec: SourceSpec) -> Iterator[ImageRef]:
    """One image a row. Ids: the id column, else the path of the URI.

    A row without a URI is an image that cannot be found, named by its id or ``LIST#ROW``.
    """
    for number, row in enumerate(read_rows(spec.url, (spec.uri_column, spec.id_column))):
        uri, image_id = _text(row.get(spec.uri_column)), _text(row.get(spec.id_column))
        if not uri:
            yield ref_of("", image_id or f"{spec.url.rsplit('/', 1)[-1]}#{number}", spec)
        else:
            ref = ref_of(resolve(uri, spec.root), image_id or id_of(uri), spec)
            yield ref if image_id else ref._replace(former=printable(former_id_of(uri)))


def settle_list(spec: SourceSpec, uri_column: str | None, id_column: str | None) -> SourceSpec:
    """``spec`` with its columns settled from the list's first row. Raises SourceError."""
    first = next(iter(read_rows(spec.url)), None)
    if first is None:
        raise SourceError(f"source {spec.url!r} is an empty list; expected one URI or more")
    return spec._replace(
        uri_column=_settled(spec.url, "URIs", first, uri_column, URI_COLUMNS),
        id_column=_settled(spec.url, "ids", first, id_column, ID_COLUMNS, needed=False),
    )


def read_rows(url: str, columns: Sequence[str] = ()) -> Iterator[Mapping[str, Any]]:
    """The rows of a list, as mappings; of Parquet only ``columns`` (all where none is named)."""
    suffix = list_suffix(url)
    if suffix == ".parquet":
        yield from _parquet_rows(url, [name for name in columns if name])
        return
    text = fsspec.open(url, "rt", encoding="utf-8-sig", newline="", compression="infer")
    try:
        with reading(url), text as stream:
            yield from _text_rows(stream, suffix, url)
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error) as err:
        raise SourceError(f"source {url!r} is not a readable list: {err}") from err


def list_suffix(url: str) -> str:
    """``.txt``, ``.csv``, ..., ``.parquet`` of a list's URL, under a ``.gz`` too; '' where it is no list."""
    path = split_url(url).path.lower().removesuffix(".gz")
    return next((ending for ending in (*LIST_SUFFIXES, ".parquet") if path.endswith(ending)), "")


def resolve(uri: str, root: str) -> str:
    """``uri``, or where a relative path leads from ``root``."""
    if is_whole(uri):
        return lower_scheme(uri)
    return f"{root.rstrip('/')}/{uri}" if root else uri


def is_whole(uri: str) -> bool:
    """Whether ``uri`` says itself where it leads, whatever the root."""
    return "://" in uri or uri.startswith("/")


def id_of(uri: str) -> str:
    """The path of ``uri``, with HTTP's query: ``a/b.jpg`` of ``https://host/a/b.jpg``, ``a#1.jpg`` of ``s3://b/a#1.jpg``."""
    parts = split_url(uri)
    path = parts.path.lstrip("/") or parts.authority
    return f"{path}?{parts.query}" if parts.query else path


def former_id_of(uri: str) -> str:
    """The id of ``uri`` in stores of when any URI's ``#`` ended its id; '' where it is the same."""
    try:
        parts = urlsplit(uri) if "://" in uri else None
    except ValueError:
        return ""
    if parts is None:
        return ""
    path = parts.path.lstrip("/") or parts.netloc
    former = f"{path}?{parts.query}" if parts.query else path
    return "" if former == id_of(uri) else former


def ref_of(uri: str, image_id: str, spec: SourceSpec) -> ImageRef:
    """The reference; with version and size where the image is a file on this machine that the list may name."""
    ref = ImageRef(printable(image_id), printable(uri), spec.name, None)
    if not uri or not is_local(uri) or addresses.refusal(ref, (spec.root,)):
        return ref
    version, length = _local_version(uri)
    return ref._replace(version=version, length=length)


def _local_version(uri: str) -> tuple[str | None, int]:
    try:
        found = access.stat_url(uri)
    except (OSError, ValueError):  # fetching it will say what is wrong
        return None, -1
    return (None, -1) if found.is_folder or found.is_special else (found.version, found.size)


def _text_rows(stream: Iterable[str], suffix: str, url: str) -> Iterator[Mapping[str, Any]]:
    if suffix == ".txt":
        yield from ({"uri": line.strip()} for line in stream if line.strip())
    elif suffix in (".csv", ".tsv"):
        yield from csv.DictReader(stream, delimiter="\t" if suffix == ".tsv" else ",", restkey="")
    else:
        yield from (_json_row(line, number, url) for number, line in enumerate(stream, 1) if line.strip())


def _json_row(line: str, number: int, url: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise SourceError(f"source {url!r}: line {number} is not JSON: {err}") from err
    if not isinstance(row, dict):
        raise SourceError(f"source {url!r}: line {number} is {line.strip()[:80]!r}; expected a JSON object")
    return row


def _parquet_rows(url: str, columns: list[str]) -> Iterator[Mapping[str, Any]]:
    with parquet.opened(url) as file:
        for batch in file.iter_batches(_ROWS, columns=columns or None):
            yield from batch.to_pylist()


def _settled(
    url: str, what: str, row: Mapping[str, Any], wanted: str | None, usual: Sequence[str], needed: bool = True
) -> str:
    found = next((name for name in ((wanted,) if wanted else usual) if name in row), "")
    if not found and (needed or wanted):
        expected = repr(wanted) if wanted else f"one of {', '.join(usual)}"
        there = ", ".join(repr(name) for name in row)
        raise SourceError(f"source {url!r} has the columns {there}; expected {expected} for {what}")
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
