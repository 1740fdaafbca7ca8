"""Lists of URIs: one per line, CSV with a header, JSON lines (each may be ``.gz``), Parquet without image bytes, COCO.

Listing does not contact the images' servers. Only local files have a version, from ``stat``; all others have none.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from posixpath import commonprefix
from typing import Any

import fsspec

from captionbeam.pipelines.fetch import address_guard
from captionbeam.pipelines.fetch.errors import reading
from captionbeam.pipelines.fetch.urls import is_local, lower_scheme, printable, split_url
from captionbeam.pipelines.sources import access, parquet
from captionbeam.pipelines.sources.spec import Columns, SourceSpec, relative
from captionbeam.pipelines.sources.tables import columns
from captionbeam.pipelines.sources.tables.csv_rows import read_csv
from captionbeam.pipelines.sources.tables.keeper import Keeper, kept_names
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.formats.kept import plain_values
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")
_ROWS = 1 << 14
_TRIED = 8  # images of a COCO file
_QUOTED = re.compile(r'"[^"]*"')


def list_rows(spec: SourceSpec) -> Iterator[ImageRef | Columns]:
    """Yields one image per row, then the kept columns. Its id is the id column, else the path of the URI, else
    ``LIST#ROW``.

    A row without a URI becomes an image that cannot be found.
    """
    if list_suffix(spec.url) == ".parquet":
        with parquet.opened(spec.url) as file:
            spec = parquet.fitted(spec, file.schema_arrow)
    keeper, names = keeper_of(spec)
    are_cells = list_suffix(spec.url) in (".csv", ".tsv")
    for number, row in enumerate(read_rows(spec.url, (spec.uri_column, spec.id_column, *names.values()))):
        uri, own = _text(row.get(spec.uri_column)).strip(), _text(row.get(spec.id_column))
        if spec.needs_ids and not own:
            raise columns.no_id(spec, number + 1)
        image_id = own or id_of(uri) or f"{spec.url.rsplit('/', 1)[-1]}#{number}"
        kept = keeper.text(row, f"row {number + 1}", are_cells)
        yield ref_of(resolve(uri, spec.root) if uri else "", image_id, spec, number + 1)._replace(
            columns=kept
        )
    yield from keeper.columns()


def keeper_of(spec: SourceSpec) -> tuple[Keeper, dict[str, str]]:
    """Returns what keeps the columns of a list, and their ``kept_names`` if they are known before it is read."""
    suffix = list_suffix(spec.url)
    if not spec.keep or suffix in (".txt", ".jsonl", ".ndjson"):
        return Keeper(spec), {}
    if suffix == ".parquet":
        with parquet.opened(spec.url) as file:
            schema = file.schema_arrow
        names = kept_names(spec, schema.names)
        return Keeper(spec, names, schema), names
    names = kept_names(spec, next(iter(read_rows(spec.url)), {}))
    return Keeper(spec, names), names


def resolve_list_columns(spec: SourceSpec, uri_column: str | None, id_column: str | None) -> SourceSpec:
    """Returns ``spec`` with its columns chosen from the list's first rows. Raises SourceError."""
    first = list(islice(read_rows(spec.url), columns.FIRST_ROWS))
    if not first:
        raise SourceError(f"source {spec.url!r} is an empty list; expected one URI or more")
    found = spec._replace(
        uri_column=_find_uris(spec.url, first, uri_column),
        id_column=_find_ids(spec.url, first, id_column),
        needs_ids=bool(id_column),
        header=_names(first),
    )
    if list_suffix(spec.url) in (".csv", ".tsv", ".parquet"):  # a line of JSON need not have all columns
        kept_names(found, first[0])
    return found


def read_rows(url: str, wanted: Sequence[str] = ()) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of a list as mappings. From Parquet, reads only ``wanted``, or all if there are none."""
    suffix = list_suffix(url)
    if suffix == ".parquet":
        named = list(dict.fromkeys(name for name in wanted if name))
        with parquet.opened(url) as file:
            for batch in file.iter_batches(_ROWS, columns=named or None):
                for values in zip(*map(plain_values, batch.columns), strict=True):
                    yield dict(zip(batch.schema.names, values, strict=True))
        return
    with _opened(url) as stream:
        yield from _text_rows(stream, suffix, url)


@contextmanager
def _opened(url: str) -> Iterator[Iterator[str]]:
    """Opens a list as lines with line ends. Raises SourceError, also for errors while reading."""
    text = fsspec.open(url, "rt", encoding="utf-8-sig", newline="", compression="infer")
    with reading(url):
        try:
            with text as stream:
                yield iter(stream)
        except UnicodeDecodeError as err:
            raise _not_utf8(url) from err
        except (csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as err:
            raise SourceError(f"source {url!r} is not a readable list: {err}") from err


def _not_utf8(url: str) -> SourceError:
    """Returns the error of a file that is not UTF-8, with the place of the first byte that is not."""
    said, encoding, before = "", "WINDOWS-1252", 0
    with fsspec.open(url, "rb", compression="infer") as stream:
        for number, line in enumerate(stream, 1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                said, encoding = " but UTF-16", "UTF-16"
                break
            try:
                line.decode()
            except UnicodeDecodeError as err:
                said = f": line {number} has the byte 0x{line[err.start]:02x}, byte {before + err.start + 1:,} of it"
                break
            before += len(line)
    return SourceError(
        f"source {url!r} is not UTF-8{said}; expected UTF-8 (such as from iconv -f {encoding} -t UTF-8)"
    )


def list_suffix(url: str) -> str:
    """Returns a list's suffix (``.txt``, ``.csv``, ..., ``.parquet``), ignoring ``.gz``; '' if it is no list."""
    path = split_url(url).path.lower().removesuffix(".gz")
    return next((ending for ending in (*LIST_SUFFIXES, ".parquet") if path.endswith(ending)), "")


def resolve(uri: str, root: str) -> str:
    """Returns ``uri``, resolved against ``root`` if it is a relative path."""
    if is_absolute(uri):
        return lower_scheme(uri)
    return f"{root.rstrip('/')}/{uri}" if root else uri


def is_absolute(uri: str) -> bool:
    """Returns whether ``uri`` is absolute, so that the root does not apply."""
    return uri.startswith("/") or files.scheme(uri) != ""


def id_of(uri: str) -> str:
    """Returns the path of ``uri``, with HTTP's query: ``https://host/a/b.jpg`` gives ``a/b.jpg``.

    Only HTTP has fragments: ``s3://b/a#1.jpg`` gives ``a#1.jpg``.
    """
    parts = split_url(uri)
    path = parts.path.lstrip("/") or parts.authority
    return f"{path}?{parts.query}" if parts.query else path


def ref_of(uri: str, image_id: str, spec: SourceSpec, row: int) -> ImageRef:
    """Returns a reference to the image in the list's ``row``, counted from 1.

    It has version and size if the image is a local file that the list is allowed to name.
    """
    ref = ImageRef(printable(image_id), printable(uri), spec.name, None, offset=row, column=_list_name(spec))
    if not uri or not is_local(uri) or address_guard.refusal(ref, (spec.root,)):
        return ref
    version, length = _local_version(uri)
    return ref._replace(version=version, length=length)


def _list_name(spec: SourceSpec) -> str:
    """Returns the list's name in a source of several lists; '' if the source is the list."""
    if spec.url == spec.name:
        return ""
    shared = commonprefix([spec.url, f"{spec.name}/"]).rpartition("/")[0]
    return printable(relative(spec.url, shared))


def _local_version(uri: str) -> tuple[str | None, int]:
    try:
        found = access.stat_url(uri)
    except (OSError, ValueError):  # fetching the image reports the error
        return None, -1
    return (None, -1) if found.is_folder or found.is_special else (found.version, found.size)


def _text_rows(stream: Iterator[str], suffix: str, url: str) -> Iterator[Mapping[str, Any]]:
    if suffix == ".txt":
        yield from ({"uri": line.rstrip("\r\n")} for line in stream if line.strip())
    elif suffix in (".csv", ".tsv"):
        yield from _csv_rows(stream, suffix)
    else:
        yield from (_json_row(line, number, url) for number, line in enumerate(stream, 1) if line.strip())


def _csv_rows(stream: Iterator[str], suffix: str) -> Iterator[Mapping[str, Any]]:
    header = next(stream, "")
    rows = read_csv(chain([header], stream), _separator(header, suffix))
    _, names = next(rows, (0, []))
    for name, count in Counter(names).items():
        if name and count > 1:
            raise csv.Error(f"its header has {name!r} {count} times; expected each name once")
    for line, values in rows:
        if len(values) > len(names):
            raise csv.Error(
                f"line {line} has {len(values)} values; expected the header's {len(names)} or fewer"
            )
        yield dict.fromkeys(names) | dict(zip(names, values, strict=False))


def _separator(header: str, suffix: str) -> str:
    """Returns the separator of a CSV header: one that gives a usual column of URIs, else the most frequent one.

    Separators in quotes do not count. Semicolons are usual in locales with decimal commas.
    """
    if suffix == ".tsv":
        return "\t"
    bare = _QUOTED.sub("", header)
    found = sorted(",;\t", key=bare.count, reverse=True)
    names = {one: [name.strip().strip('"') for name in header.split(one)] for one in found if one in bare}
    return next((one for one in names if columns.find_first(columns.URI_COLUMNS, names[one])), found[0])


def _json_row(line: str, number: int, url: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise SourceError(f"source {url!r}: line {number} is not JSON: {err}") from err
    if not isinstance(row, dict):
        raise SourceError(f"source {url!r}: line {number} is {line.strip()[:80]!r}; expected a JSON object")
    return row


def _find_uris(url: str, rows: Sequence[Mapping[str, Any]], wanted: str | None) -> str:
    names = _names(rows)
    if found := columns.find_first((wanted,) if wanted else columns.URI_COLUMNS, names):
        return found
    if any(map(columns.is_location, names)):
        raise SourceError(
            f"source {url!r} begins with {columns.named(names)}{_separated(url)}; expected a line of column names"
        )
    images = [] if wanted else columns.of_images(rows)
    if len(images) == 1:
        return images[0]
    usual = f"one of {', '.join(columns.URI_COLUMNS)} for URIs"
    expected = columns.expected_uris(wanted, images, usual)
    raise SourceError(
        f"source {url!r} has the columns {columns.named(names)}{_separated(url)}; expected {expected}"
    )


def _find_ids(url: str, rows: Sequence[Mapping[str, Any]], wanted: str | None) -> str:
    names = _names(rows)
    found = columns.find_first((wanted,) if wanted else columns.ID_COLUMNS, names)
    if wanted and not found:
        raise SourceError(
            f"source {url!r} has the columns {columns.named(names)}{_separated(url)}; expected {wanted!r} for ids"
        )
    return found


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(rows)))


def _separated(url: str) -> str:
    suffix = list_suffix(url)
    if suffix not in (".csv", ".tsv"):
        return ""
    with _opened(url) as stream:
        return f" (separated by {_separator(next(stream, ''), suffix)!r})"


def _text(value: Any) -> str:
    """Returns ``value`` as text, unstripped; '' if it is blank."""
    text = "" if value is None else str(value)
    return text if text.strip() else ""


def list_coco(spec: SourceSpec) -> Iterator[ImageRef | Columns]:
    """Yields one image per entry, in the file's order, then the kept columns. The image id is COCO's ``id`` as text."""
    keeper = Keeper(spec._replace(id_column="id", uri_column="file_name"))
    for number, image in enumerate(read_images(spec.url)):
        uri = resolve(image["file_name"], spec.root)
        kept = keeper.text(image, f"image {image['id']}")
        yield ref_of(uri, str(image["id"]), spec, number + 1)._replace(columns=kept)
    yield from keeper.columns()


def check_coco(spec: SourceSpec) -> SourceSpec:
    """Returns ``spec`` with the columns of the file's images.

    Raises SourceError if the file is no COCO annotation file, if none of its first images exists, or if no image has a
    column that a prompt uses. Checks images below the root only, as absolute names in the file could refer to any
    location.
    """
    images = read_images(spec.url)
    found = spec._replace(header=tuple(dict.fromkeys(chain.from_iterable(images))))
    kept_names(found, found.header)
    names = [image["file_name"] for image in images[:_TRIED]]
    below = [name for name in names if not is_absolute(name) and ".." not in name.split("/")]
    first = [resolve(name, spec.root) for name in below]
    if first and not any(_is_there(uri) for uri in first):
        raise SourceError(
            f"source {spec.url!r} names images like {first[0]!r}, which is not there; "
            "expected the folder they lie in as image root"
        )
    return found


def read_images(url: str) -> list[dict[str, Any]]:
    """Returns the entries of ``images``, each with ``id`` and ``file_name``. Raises SourceError."""
    with reading(url):
        try:
            content = files.read_json(url)
        except ValueError as err:
            if isinstance(err.__cause__, UnicodeDecodeError):
                raise _not_utf8(url) from err
            raise SourceError(f"source {url!r} is not readable JSON: {err}") from err
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise SourceError(f"source {url!r} lists no images; expected a COCO annotation file with 'images'")
    for image in images:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or "id" not in image:
            raise SourceError(f"source {url!r} has the image {image!r}; expected 'id' and 'file_name' in it")
    return images


def _is_there(uri: str) -> bool:
    with reading(uri):
        try:
            access.stat_url(uri)
        except FileNotFoundError:
            return False
    return True
