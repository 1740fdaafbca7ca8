"""Lists a bucket from its inventory report instead of listing requests: about one file per million objects.

The manifest is described in ``inventory_manifest``. An incomplete report must not look like a smaller bucket, so
every row must have all fields, and the rows of all files are counted.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from captionbeam.pipelines.fetch.errors import reading
from captionbeam.pipelines.fetch.urls import filesystem
from captionbeam.pipelines.sources.access import FileInfo, open_stream
from captionbeam.pipelines.sources.buckets import key_pages
from captionbeam.pipelines.sources.buckets.inventory_manifest import Report, check_md5
from captionbeam.pipelines.sources.spec import Counted, SourceSpec, digest_of, version_of
from captionbeam.pipelines.sources.tables.csv_rows import read_csv
from captionbeam.schemas.errors import SourceError

_BLOCK, _ROWS = 8 << 20, 1 << 14


def parts(report: Report, spec: SourceSpec) -> Iterator[SourceSpec]:
    """Yields one part of ``spec``, a folder of the report's bucket, for each file of the report."""
    for url, md5 in report.files:
        how = {**report._asdict(), "files": (), "md5": md5}
        yield spec._replace(kind="inventory", url=url, report=json.dumps(how))


def report_time(spec: SourceSpec) -> str:
    """Returns the report's own creation time for a part ``spec``."""
    return str(json.loads(spec.report)["as_of"])


def list_report(spec: SourceSpec) -> Iterator[FileInfo | Counted]:
    """Yields the objects below ``spec.root`` in one file of a report, then their count. Raises SourceError."""
    how = json.loads(spec.report)
    fs, path = filesystem(spec.root)
    keys, rows, below = key_pages.keys_below(fs, path), 0, 0
    with _copied(spec.url, how["md5"]) as file, _whole(spec.url, how["format"]):
        for rows, row in enumerate(_rows(file, how, spec.url), 1):  # noqa: B007 (the last value is the count)
            if (bucket := row.get("bucket", keys.bucket)) != keys.bucket:
                raise SourceError(
                    f"inventory {spec.url!r} has a row of the bucket {bucket!r}; expected {keys.bucket!r}"
                )
            found = _object(row, spec.url)
            if (
                found is not None
                and found["key"].startswith(keys.prefix)
                and not key_pages.is_marker(found["key"])
            ):
                below += 1
                url = fs.unstrip_protocol(f"{keys.bucket}/{found['key']}")
                yield FileInfo(url, found["size"], version_of(found), digest=digest_of(found))
    yield Counted(spec.name, how["url"], rows, below, how["records"])


def check_counts(counts: Iterable[Counted]) -> None:
    """Raises SourceError if a report's rows do not match its manifest, or no object is below the source."""
    rows: Counter[Counted] = Counter()
    below: Counter[Counted] = Counter()
    for each in counts:
        whole = each._replace(rows=0, objects=0)
        rows[whole] += each.rows
        below[whole] += each.objects
    for whole, found in rows.items():
        if whole.expected not in (-1, found):
            raise SourceError(
                f"inventory {whole.report!r} has {found} rows; expected {whole.expected}, as it says"
            )
        if not below[whole]:
            raise SourceError(
                f"inventory {whole.report!r} has nothing below {whole.source}; expected images there"
            )


@contextmanager
def _whole(url: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as err:
        raise SourceError(f"inventory {url!r} is not a readable {kind} file: {err}") from err


@contextmanager
def _copied(url: str, md5: str) -> Iterator[BinaryIO]:
    """Copies the file to the local disk and verifies its MD5 against the manifest."""
    digest = hashlib.md5(usedforsecurity=False)
    with tempfile.TemporaryFile() as file:
        with reading(url), open_stream(url, _BLOCK) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                file.write(block)
        check_md5(url, digest.hexdigest(), md5)
        file.seek(0)
        yield file


def _rows(file: BinaryIO, how: Mapping[str, Any], url: str) -> Iterator[dict[str, Any]]:
    if how["format"] == "csv":
        yield from _csv_rows(file, how, url)
        return
    for batch in _batches(file, how["format"]):
        names = [_plain(name) for name in batch.schema.names]
        yield from (dict(zip(names, row.values(), strict=True)) for row in batch.to_pylist())


def _batches(file: BinaryIO, kind: str) -> Iterator[pa.RecordBatch]:
    if kind == "parquet":
        yield from pq.ParquetFile(file).iter_batches(_ROWS)
        return
    from pyarrow import orc

    found = orc.ORCFile(file)
    for stripe in range(found.nstripes):
        yield found.read_stripe(stripe)


def _csv_rows(file: BinaryIO, how: Mapping[str, Any], url: str) -> Iterator[dict[str, Any]]:
    """Reads S3's CSV (gzipped, no header, URL-encoded keys) or Google's (plain, with header or known columns)."""
    is_gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    raw = gzip.GzipFile(fileobj=file) if is_gzipped else file
    rows = read_csv((line.decode("utf-8-sig") for line in raw), how["delimiter"])
    names = [_plain(name) for name in (how["columns"] or next(rows, (0, ()))[1])]
    for number, values in rows:
        if len(values) != len(names):
            raise SourceError(
                f"inventory {url!r} has {len(values)} fields in line {number}; expected {len(names)}"
            )
        row: dict[str, Any] = dict(zip(names, values, strict=True))
        if "key" in row:
            row["key"] = unquote_plus(row["key"])
        yield row


def _plain(name: str) -> str:
    """Maps ``IsLatest`` (CSV) and ``is_latest`` (Parquet, ORC) to the same name."""
    return name.replace("_", "").lower()


def _object(row: Mapping[str, Any], url: str) -> dict[str, Any] | None:
    """Returns a live object in the form of a listing entry; None for deleted objects and old versions."""
    if _is(row.get("isdeletemarker")) or not _is(row.get("islatest", True)) or row.get("timedeleted"):
        return None
    key, version = row.get("key", row.get("name")), row.get("etag") if "key" in row else row.get("generation")
    if key is None or version in (None, ""):
        needed = "Key and ETag" if "key" in row else "name and generation"
        raise SourceError(f"inventory {url!r} has the fields {', '.join(row)}; expected {needed} among them")
    told = (
        {"ETag": str(version)}
        if "key" in row
        else {"generation": str(version), "md5Hash": row.get("md5hash")}
    )
    return {"key": key, "size": _size(row.get("size"), url), **told}


def _size(value: Any, url: str) -> int:
    if value in (None, ""):
        return -1
    if not str(value).isdecimal():
        raise SourceError(f"inventory {url!r} has the size {value!r}; expected a number of bytes")
    return int(value)


def _is(value: Any) -> bool:
    return value is True or str(value).lower() == "true"
