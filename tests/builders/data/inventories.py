"""Inventory reports of a bucket, as Google and AWS publish them, with what a real server says of its objects."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

from captionbeam.pipelines.sources.buckets.key_pages import Keys, pages
from captionbeam.schemas.storage import files

CONFIG = "5f1d9c1c-1b2f-4a5f-9d3e-0a1b2c3d4e5f"
GCS_FIELDS = ("project", "bucket", "name", "size", "generation", "md5Hash", "timeDeleted")
CSV_OPTIONS = {"record_separator": "\n", "delimiter": ",", "header_required": True}
S3_FIELDS = ("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "LastModifiedDate", "ETag")


def objects(url: str, prefix: str = "") -> list[dict[str, Any]]:
    """Everything in a bucket, as its listing has it."""
    fs, bucket = files.split(url)
    return [item for page in pages(fs, Keys(bucket, prefix)) for item in page.objects]


def gcs_report(
    url: str, found: Sequence[Mapping[str, Any]], kind: str = "csv", time: str = "2026-11-25T00:00"
) -> str:
    """A Cloud Storage inventory report of ``found``, in two shards, in ``url``'s folder ``inventory``; its manifest."""
    bucket = url.removeprefix("gs://")
    rows = [
        {"project": "1234", "bucket": bucket, "name": item["key"], "size": item["size"],
         "generation": int(item["generation"]), "md5Hash": item.get("md5Hash"), "timeDeleted": item.get("timeDeleted")}
        for item in found
    ]  # fmt: skip
    names = []
    for shard in range(2):
        names.append(f"{CONFIG}_{time}_{shard}.{kind}")
        data = _parquet(rows[shard::2], GCS_FIELDS) if kind == "parquet" else _csv(rows[shard::2])
        files.write_atomic(files.join(url, "inventory", names[-1]), data)
    config = {
        "name": f"projects/1234/locations/us-west1/reportConfigs/{CONFIG}",
        "object_metadata_report_options": {
            "metadata_fields": list(GCS_FIELDS),
            "storage_filters": {"bucket": bucket},
            "storage_destination_options": {"bucket": bucket, "destination_path": "inventory"},
        },
        **({"parquet_options": {}} if kind == "parquet" else {"csv_options": CSV_OPTIONS}),
    }
    manifest = {
        "report_config": config,
        "records_processed": len(rows),
        "snapshot_time": f"{time}:00Z",
        "shard_count": 2,
        "report_shards_file_names": names,
    }
    return _put(url, f"inventory/{CONFIG}_{time}_manifest.json", json.dumps(manifest).encode())


def s3_report(
    url: str, found: Sequence[Mapping[str, Any]], kind: str = "CSV", time: str = "2026-11-25T00-00Z", wrong: str = ""
) -> str:  # fmt: skip
    """An S3 Inventory of all versions: ``found`` (with ``latest`` and ``marker`` where they are not), in two files."""
    bucket = url.removeprefix("s3://")
    rows = [
        {"Bucket": bucket, "Key": item["key"], "VersionId": "v1", "IsLatest": item.get("latest", True),
         "IsDeleteMarker": item.get("marker", False), "Size": None if item.get("marker") else item["size"],
         "LastModifiedDate": "2026-11-24T10:00:00.000Z",
         "ETag": "" if item.get("marker") else item["ETag"].strip('"')}
        for item in found
    ]  # fmt: skip
    make = {"CSV": _s3_csv, "Parquet": lambda part: _parquet(part, S3_FIELDS, snake=True), "ORC": _orc}[kind]
    entries = []
    for number in range(2):
        data = make(rows[number::2])
        key = f"inventory/{bucket}/daily/data/{number}.{'csv.gz' if kind == 'CSV' else kind.lower()}"
        files.write_atomic(f"{url}/{key}", data)
        entries.append({"key": key, "size": len(data), "MD5checksum": wrong or hashlib.md5(data).hexdigest()})
    manifest = {
        "sourceBucket": bucket,
        "destinationBucket": f"arn:aws:s3:::{bucket}",
        "version": "2016-11-30",
        "creationTimestamp": "1795564800000",
        "fileFormat": kind,
        "fileSchema": {"CSV": ", ".join(S3_FIELDS)}.get(
            kind, "message s3.inventory { required binary bucket (UTF8); }"
        ),
        "files": entries,
    }
    data = json.dumps(manifest).encode()
    folder = f"inventory/{bucket}/daily/{time}"
    _put(url, f"{folder}/manifest.checksum", hashlib.md5(data).hexdigest().encode())
    return _put(url, f"{folder}/manifest.json", data)


def _put(url: str, name: str, data: bytes) -> str:
    files.write_atomic(files.join(url, name), data)
    return files.join(url, name)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, GCS_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _s3_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for row in rows:
        values = {**row, "Key": quote_plus(row["Key"], safe="/")}
        writer.writerow(str(value).lower() if isinstance(value, bool) else value for value in values.values())
    return gzip.compress(text.getvalue().encode())


def _table(rows: Sequence[Mapping[str, Any]], fields: Sequence[str], snake: bool) -> pa.Table:
    table = pa.Table.from_pylist([dict(row) for row in rows])
    names = {"VersionId": "version_id", "IsLatest": "is_latest", "IsDeleteMarker": "is_delete_marker",
             "LastModifiedDate": "last_modified_date", "ETag": "e_tag"}  # fmt: skip
    return table.select(fields).rename_columns(
        [names.get(name, name.lower()) if snake else name for name in fields]
    )


def _parquet(rows: Sequence[Mapping[str, Any]], fields: Sequence[str], snake: bool = False) -> bytes:
    sink = io.BytesIO()
    pq.write_table(_table(rows, fields, snake), sink)
    return sink.getvalue()


def _orc(rows: Sequence[Mapping[str, Any]]) -> bytes:
    sink = io.BytesIO()
    orc.write_table(_table(rows, S3_FIELDS, snake=True), sink)
    return sink.getvalue()
