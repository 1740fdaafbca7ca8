"""Reads the manifest of a bucket's inventory report: its bucket, its time, and its files.

Two formats are supported:

- Cloud Storage inventory reports (cloud.google.com/storage/docs/insights/inventory-reports): shards in CSV or Parquet
  next to ``<config>_<YYYY-MM-DDTHH:MM>_manifest.json``, which names them in ``report_shards_file_names`` and repeats
  the report's configuration. An image's version is its ``generation``, as in a listing.
- S3 Inventory (docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html): gzipped CSV, Parquet or
  ORC. ``<time>/manifest.json`` lists the files with their MD5; its own MD5 is in ``manifest.checksum``. Keys are
  URL-encoded in CSV only. An image's version is its ``ETag``, as in a listing. In a report of all versions, only the
  latest ones count, without delete markers.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from captionbeam.pipelines.fetch.errors import reading
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.storage import files

_DATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\dZ")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_EXPECTED = "expected the manifest.json of a Cloud Storage inventory report or an S3 Inventory, or the folder above it"
_FORMATS = ("csv", "parquet", "orc")


class Report(NamedTuple):
    """Content of a manifest: the bucket, the time, and the files of the inventory."""

    url: str
    bucket: str  # gs://name or s3://name
    as_of: str
    format: str
    columns: tuple[str, ...]  # of CSV without a header
    delimiter: str
    files: tuple[tuple[str, str], ...]  # URL, and MD5 in hexadecimal or ''
    records: int = -1  # rows of all files, if the manifest states them


def read_report(url: str) -> Report:
    """Reads the manifest at ``url``, or the newest one in a folder of reports. Raises SourceError."""
    with reading(url):
        where = _manifest_of(files.absolute(url))
        data = files.read_bytes(where)
        _check_manifest(where, data)
    try:
        content = json.loads(data)
    except ValueError as err:
        raise SourceError(f"inventory {where!r} is not JSON: {err}; {_EXPECTED}") from err
    kinds = {"report_shards_file_names": _of_gcs, "sourceBucket": _of_s3}
    read = next((kinds[key] for key in kinds if isinstance(content, dict) and key in content), None)
    if read is None:
        raise SourceError(f"inventory {where!r} is no manifest of one; {_EXPECTED}")
    try:
        return read(where, content)
    except SourceError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise SourceError(
            f"inventory {where!r} has a damaged manifest ({type(err).__name__}: {err}); {_EXPECTED}"
        ) from err


def _manifest_of(url: str) -> str:
    if url.endswith(".json"):
        return url
    names = files.names(url)
    manifests = [name for name in names if name.endswith("_manifest.json")]
    if manifests:
        return files.join(url, max(manifests, key=lambda name: name.split("_")[-2]))
    for name in reversed([name for name in names if _DATED.fullmatch(name)]):
        if files.exists(found := files.join(url, name, "manifest.json")):  # the manifest is written last
            return found
    return files.join(url, "manifest.json")


def _check_manifest(url: str, data: bytes) -> None:
    """Verifies an S3 manifest against the MD5 in the file next to it."""
    if url.endswith("/manifest.json"):
        try:
            expected = files.read_bytes(url.removesuffix(".json") + ".checksum").decode().strip()
        except FileNotFoundError:
            return
        check_md5(url, hashlib.md5(data, usedforsecurity=False).hexdigest(), expected)


def check_md5(url: str, found: str, expected: str) -> None:
    if expected and found != expected.lower():
        raise SourceError(f"inventory {url!r} has the MD5 {found}; expected {expected}, as the report states")


def _of_gcs(url: str, content: Mapping[str, Any]) -> Report:
    config = _snake(content["report_config"])
    about, text = config["object_metadata_report_options"], config.get("csv_options", {})
    names = [name.rsplit("/", 1)[-1] for name in content["report_shards_file_names"]]
    if len(set(names)) != int(content["shard_count"]):
        raise SourceError(
            f"inventory {url!r} names {len(set(names))} files of {content['shard_count']}; expected all of them"
        )
    is_csv = not any(name.endswith(".parquet") for name in names)
    fields = () if text.get("header_required") else tuple(about.get("metadata_fields", ()))
    return Report(
        url=url,
        bucket=f"gs://{about['storage_filters']['bucket'].removeprefix('gs://')}",
        as_of=content.get("snapshot_time", ""),
        format="csv" if is_csv else "parquet",
        columns=fields,
        delimiter=text.get("delimiter") or ",",
        files=tuple((files.join(url.rpartition("/")[0], name), "") for name in names),
        records=int(content["records_processed"]),
    )


def _of_s3(url: str, content: Mapping[str, Any]) -> Report:
    kind = content["fileFormat"].lower()
    if kind not in _FORMATS:
        raise SourceError(
            f"inventory {url!r} is of {content['fileFormat']}; expected one of {', '.join(_FORMATS)}"
        )
    target = content.get("destinationBucket", "").rpartition(":")[2]
    created = str(content.get("creationTimestamp", ""))
    if created.isdigit():  # milliseconds
        moment = datetime.datetime.fromtimestamp(int(created) / 1000, datetime.UTC)
        created = moment.isoformat(timespec="seconds")
    schema = content.get("fileSchema", "") if kind == "csv" else ""
    return Report(
        url=url,
        bucket=f"s3://{content['sourceBucket']}",
        as_of=created,
        format=kind,
        columns=tuple(name.strip() for name in schema.split(",")) if schema else (),
        delimiter=",",
        files=tuple(
            (f"s3://{target}/{each['key']}", each.get("MD5checksum", "")) for each in content["files"]
        ),
    )


def _snake(value: Any) -> Any:
    """Converts JSON's camel-case names to the snake-case names of protocol buffers."""
    if isinstance(value, Mapping):
        return {_CAMEL.sub("_", name).lower(): _snake(inside) for name, inside in value.items()}
    return value
