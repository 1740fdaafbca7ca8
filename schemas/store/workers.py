"""What each worker process of a run held: ``plans/<run>/workers/<host>-<pid>-<token>.json``, one file a process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from captionbeam.schemas.errors import StoreError
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.storage import files

READERS = 16


@dataclass(frozen=True)
class WorkerRecord:
    """One process, as far as it came; a process that was killed is as it was a second or so before.

    run, host, pid:  whose and which; ``started`` and ``updated`` in UTC.
    cores, threads:  that it could use, and that were due to it.
    models:          how often it loaded the run's model: once.
    shards, images:  that it did; shards that were there already are not counted.
    most:            at once: ``bundles`` that Beam gave it, ``shards`` at work, ``images`` held in memory (from
                     their reading to the writer), images being prepared (``preparing``), forward passes under way
                     (``batches``), ``os_threads`` of the whole process.
    limits:          the bounds of all but ``bundles``.
    peak_rss_bytes:  memory of the process; in one process with the launcher, of both.
    """

    run: str
    host: str
    pid: int
    started: str
    updated: str
    cores: int
    threads: int
    models: int
    shards: int
    images: int
    peak_rss_bytes: int
    most: dict[str, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    version: int = arrow.SCHEMA_VERSION


def write_worker(folder: str, token: str, record: WorkerRecord) -> None:
    """Write, or write anew, the record of one process of the run whose record is in ``folder``."""
    name = f"{record.host}-{record.pid}-{token}.json"
    files.write_atomic(files.join(folder, "workers", name), files.json_bytes(dataclasses.asdict(record)))


def read_workers(folder: str) -> list[WorkerRecord]:
    """The records of a run's processes, by name; none of a run of earlier versions. Raises StoreError."""
    names = files.names(files.join(folder, "workers"))
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda name: _read(files.join(folder, "workers", name)), names))


def summary(records: list[WorkerRecord]) -> dict[str, int]:
    """Of all processes together: how many, and the most that one of them held."""
    if not records:
        return {}
    return {
        "processes": len(records),
        "hosts": len({record.host for record in records}),
        "models_each": max(record.models for record in records),
        "threads_each": max(record.threads for record in records),
        "peak_rss_bytes": max(record.peak_rss_bytes for record in records),
    }


def _read(url: str) -> WorkerRecord:
    values: Mapping[str, Any] = files.read_json(url)
    if not isinstance(values.get("version"), int) or values["version"] > arrow.SCHEMA_VERSION:
        raise StoreError(
            f"{url} has version {values.get('version')!r}; this captionbeam reads up to {arrow.SCHEMA_VERSION}: "
            "upgrade it"
        )
    return WorkerRecord(**values)
