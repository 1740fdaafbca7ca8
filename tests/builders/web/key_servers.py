"""Buckets of keys: fakes of the two listings as published, and many small objects put onto real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from fsspec.asyn import sync

from captionbeam.schemas.storage import files

ADDRESS = {"gs": "STORAGE_EMULATOR_HOST", "s3": "AWS_ENDPOINT_URL"}
_AT_ONCE = 32


class _Fake:
    """``keys`` in one bucket; counts its ``requests``."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys, self.requests = sorted(keys), 0

    def _page(
        self, keys: list[str], prefix: str, delimiter: str, size: int, after: str
    ) -> tuple[list, list, str]:
        """Objects and common prefixes in one order, at most ``size`` of both; the last of them, if there are more."""
        self.requests += 1
        entries: dict[str, bool] = {}
        for key in keys:
            inside, slash, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            entry = prefix + inside + slash if slash else key
            if key.startswith(prefix) and entry > after:
                entries[entry] = bool(slash)
        names = sorted(entries)
        shown = names[:size]
        objects = [name for name in shown if not entries[name]]
        return objects, [name for name in shown if entries[name]], shown[-1] if len(names) > size else ""


class FakeGcs(_Fake):
    """``objects.list`` of the JSON API."""

    protocol = ("gs", "gcs")

    def call(
        self, method: str, path: str, bucket: str, json_out: bool, maxResults: int, **asked: str  # noqa: N803
    ) -> dict:  # fmt: skip
        assert (method, path, json_out) == ("GET", "b/{}/o", True)
        start, end = asked.get("startOffset", ""), asked.get("endOffset", "")
        keys = [key for key in self.keys if key >= start and (not end or key < end)]
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        objects, prefixes, token = self._page(keys, prefix, delimiter, maxResults, asked.get("pageToken", ""))
        items = [{"name": name, "size": "1", "generation": "7"} for name in objects]
        found: dict[str, Any] = {"items": items, "prefixes": prefixes, "nextPageToken": token}
        return {name: value for name, value in found.items() if value}


class FakeS3(_Fake):
    """``ListObjectsV2``."""

    protocol = ("s3", "s3a")

    def call_s3(self, method: str, Bucket: str, MaxKeys: int, **asked: str) -> dict:  # noqa: N803
        assert method == "list_objects_v2"
        keys = [key for key in self.keys if key > asked.get("StartAfter", "")]
        prefix, delimiter = asked.get("Prefix", ""), asked.get("Delimiter", "")
        objects, prefixes, token = self._page(
            keys, prefix, delimiter, MaxKeys, asked.get("ContinuationToken", "")
        )
        return {
            "Contents": [{"Key": name, "Size": 1, "ETag": '"e"'} for name in objects],
            "CommonPrefixes": [{"Prefix": name} for name in prefixes],
            "IsTruncated": bool(token),
            "NextContinuationToken": token,
        }


def put_keys(url: str, keys: Iterable[str], data: bytes = b"x") -> None:
    """One object a key, just as it is spelled."""
    fs, bucket = files.split(url)

    async def put(key: str, gate: asyncio.Semaphore) -> None:
        async with gate:
            if "s3" in fs.protocol:
                await fs._call_s3("put_object", Bucket=bucket, Key=key, Body=data)
            else:
                path = f"{fs._location}/upload/storage/v1/b/{bucket}/o"
                await fs._call("POST", path, uploadType="media", name=key, data=data)

    async def put_all() -> None:
        gate = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(put(key, gate) for key in keys))

    sync(fs.loop, put_all)
