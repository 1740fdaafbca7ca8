"""A bucket's inventory report in place of its listing: no request an object, or a thousand, but a file a million.

Two are read, each as its documentation has it:

- Cloud Storage inventory reports (cloud.google.com/storage/docs/insights/inventory-reports): shards in CSV or Parquet
  beside ``<config>_<YYYY-MM-DDTHH:MM>_manifest.json``, which names them in ``report_shards_file_names`` and repeats the
  report's configuration. An image's version is its ``generation``, as in a listing.
- S3 Inventory (docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html): gzipped CSV, Parquet or
  ORC, named with their MD5 by ``<time>/manifest.json``, whose own MD5 is in ``manifest.checksum``. Keys are
  URL-encoded in CSV alone. An image's version is its ``ETag``, as in a listing; of a report of all versions only the
  latest count, and no delete markers.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources import buckets
from pipelines.sources.access import FileInfo, open_stream
from pipelines.sources.spec import SourceSpec, digest_of, filesystem, version_of
from pipelines.sources.trouble import reading
from schemas import files
from schemas.errors import SourceError

_DATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\dZ")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BLOCK, _ROWS = 8 << 20, 1 << 14
_EXPECTED = "expected the manifest.json of a Cloud Storage inventory report or an S3 Inventory, or the folder above it"
_FORMATS = ("csv", "parquet", "orc")


class Report(NamedTuple):
    """What a manifest says: whose inventory, of when, and the files that hold it."""

    url: str
    bucket: str  # gs://name, s3://name
    as_of: str
    format: str
    columns: tuple[str, ...]  # of CSV, where it has no header
    delimiter: str
    files: tuple[tuple[str, str], ...]  # URL, and MD5 in hexadecimal or ''


def read_report(url: str) -> Report:
    """The report whose manifest is at ``url``; of a folder of reports, the newest. Raises SourceError."""
    with reading(url):
        where = _manifest_of(files.absolute(url))
        data = files.read_bytes(where)
        _check_manifest(where, data)
    try:
        content = json.loads(data)
    except ValueError as err:
        raise SourceError(f"inventory {where!r} is not JSON: {err}; {_EXPECTED}") from err
    if isinstance(content, dict) and "report_shards_file_names" in content:
        return _of_gcs(where, content)
    if isinstance(content, dict) and {"sourceBucket", "fileFormat", "files"} <= content.keys():
        return _of_s3(where, content)
    raise SourceError(f"inventory {where!r} is no manifest of one; {_EXPECTED}")


def parts(report: Report, spec: SourceSpec) -> Iterator[SourceSpec]:
    """One part of ``spec``, a folder of the report's bucket, for each file of the report."""
    for url, md5 in report.files:
        how = {"format": report.format, "columns": report.columns, "delimiter": report.delimiter, "md5": md5}
        yield spec._replace(kind="inventory", url=url, report=json.dumps({**how, "as_of": report.as_of}))


def report_time(spec: SourceSpec) -> str:
    """When the report was made that ``spec`` is a part of, as it says it."""
    return json.loads(spec.report)["as_of"]


def list_report(spec: SourceSpec) -> Iterator[FileInfo]:
    """Objects below ``spec.root`` that one file of a report names. Raises SourceError."""
    how = json.loads(spec.report)
    fs, path = filesystem(spec.root)
    keys = buckets.keys_below(fs, path)
    with _copied(spec.url, how["md5"]) as file:
        try:
            for row in _rows(file, how):
                found = _object(row, spec.url)
                if (
                    found is not None
                    and found["key"].startswith(keys.prefix)
                    and not buckets.is_marker(found["key"])
                ):
                    url = fs.unstrip_protocol(f"{keys.bucket}/{found['key']}")
                    yield FileInfo(url, int(found["size"]), version_of(found), digest=digest_of(found))
        except (pa.ArrowException, csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as err:
            raise SourceError(
                f"inventory {spec.url!r} is not a readable {how['format']} file: {err}"
            ) from err


def _manifest_of(url: str) -> str:
    if url.endswith(".json"):
        return url
    names = files.names(url)
    manifests = [name for name in names if name.endswith("_manifest.json")]
    if manifests:
        return files.join(url, max(manifests, key=lambda name: name.split("_")[-2]))
    for name in reversed([name for name in names if _DATED.fullmatch(name)]):
        if files.exists(found := files.join(url, name, "manifest.json")):  # it is written last
            return found
    return files.join(url, "manifest.json")


def _check_manifest(url: str, data: bytes) -> None:
    """S3 keeps the manifest's MD5 beside it."""
    if url.endswith("/manifest.json"):
        try:
            said = files.read_bytes(url.removesuffix(".json") + ".checksum").decode().strip()
        except FileNotFoundError:
            return
        _check_md5(url, hashlib.md5(data, usedforsecurity=False).hexdigest(), said)


def _check_md5(url: str, found: str, said: str) -> None:
    if said and found != said.lower():
        raise SourceError(f"inventory {url!r} has the MD5 {found}; expected {said}, as is said of it")


def _of_gcs(url: str, content: Mapping[str, Any]) -> Report:
    config = _snake(content.get("report_config") or {})
    about = config.get("object_metadata_report_options") or {}
    bucket = (about.get("storage_filters") or {}).get("bucket")
    if not bucket:
        raise SourceError(
            f"inventory {url!r} does not say whose it is; expected report_config with storage_filters"
        )
    text = config.get("csv_options") or {}
    names = [str(name).rsplit("/", 1)[-1] for name in content["report_shards_file_names"]]
    is_csv = not any(name.endswith(".parquet") for name in names)
    fields = () if text.get("header_required") else tuple(about.get("metadata_fields") or ())
    return Report(
        url=url,
        bucket=f"gs://{bucket.removeprefix('gs://')}",
        as_of=str(content.get("snapshot_time", "")),
        format="csv" if is_csv else "parquet",
        columns=fields,
        delimiter=text.get("delimiter") or ",",
        files=tuple((files.join(url.rpartition("/")[0], name), "") for name in names),
    )


def _of_s3(url: str, content: Mapping[str, Any]) -> Report:
    kind = str(content["fileFormat"]).lower()
    if kind not in _FORMATS:
        raise SourceError(
            f"inventory {url!r} is of {content['fileFormat']}; expected one of {', '.join(_FORMATS)}"
        )
    target = str(content.get("destinationBucket", "")).rpartition(":")[2]
    created = str(content.get("creationTimestamp", ""))
    schema = str(content.get("fileSchema", "")) if kind == "csv" else ""
    return Report(
        url=url,
        bucket=f"s3://{content['sourceBucket']}",
        as_of=_time(int(created)) if created.isdigit() else created,
        format=kind,
        columns=tuple(name.strip() for name in schema.split(",")) if schema else (),
        delimiter=",",
        files=tuple(
            (f"s3://{target}/{each['key']}", each.get("MD5checksum", "")) for each in content["files"]
        ),
    )


def _time(milliseconds: int) -> str:
    found = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    return found.isoformat(timespec="seconds")


def _snake(value: Any) -> Any:
    """Names as Google's JSON has them, and as its protocol buffers do, are the same names."""
    if isinstance(value, Mapping):
        return {_CAMEL.sub("_", name).lower(): _snake(inside) for name, inside in value.items()}
    return value


@contextmanager
def _copied(url: str, md5: str) -> Iterator[BinaryIO]:
    """The file on this machine's disk, once its MD5 is found to be what the manifest says."""
    digest = hashlib.md5(usedforsecurity=False)
    with tempfile.TemporaryFile() as file:
        with reading(url), open_stream(url, _BLOCK) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                file.write(block)
        _check_md5(url, digest.hexdigest(), md5)
        file.seek(0)
        yield file


def _rows(file: BinaryIO, how: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if how["format"] == "csv":
        yield from _csv_rows(file, how)
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


def _csv_rows(file: BinaryIO, how: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """S3's are gzipped, without a header, their keys URL-encoded; Google's plain, with a header or as configured."""
    is_gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    raw = gzip.GzipFile(fileobj=file) if is_gzipped else file
    lines = csv.reader((line.decode("utf-8-sig") for line in raw), delimiter=how["delimiter"])
    names = [_plain(name) for name in (how["columns"] or next(lines, ()))]
    for values in lines:
        row: dict[str, Any] = dict(zip(names, values, strict=False))
        if "key" in row:
            row["key"] = unquote_plus(row["key"])
        yield row


def _plain(name: str) -> str:
    """``IsLatest`` of CSV, ``is_latest`` of Parquet and ORC."""
    return name.replace("_", "").lower()


def _object(row: Mapping[str, Any], url: str) -> dict[str, Any] | None:
    """A live object as a listing shows it."""
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
    size = row.get("size")
    return {"key": key, "size": -1 if size in (None, "") else size, **told}


def _is(value: Any) -> bool:
    return value is True or str(value).lower() == "true"
