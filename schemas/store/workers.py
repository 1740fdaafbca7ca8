"""Records of resource use: ``plans/<run>/workers/<host>-<pid>-<token>.json``, one file per worker process."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from captionbeam.schemas.formats import arrow
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout

READERS = 16


@dataclass(frozen=True)
class WorkerRecord:
    """One worker process. The record of a killed process is about a second old.

    run, host, pid:  the run and the process; ``started`` and ``updated`` in UTC
    cores, threads:  cores that the process may use; threads assigned to it
    models:          how often it loaded the run's model (expected: once, with a copy on each device)
    devices:         batches that each of its devices ran, by name; empty for models without a device here
    shards, images:  processed by it; shards that were already committed are not counted
    most:            maximum at one time: ``bundles`` from Beam, ``shards`` in progress, ``images`` in memory (from
                     reading to writing), images being prepared (``preparing``), concurrent forward passes
                     (``batches``), ``os_threads`` of the whole process
    limits:          upper limits of the above, except ``bundles``
    peak_rss_bytes:  peak memory of the process, including the launcher if both are one process
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
    devices: dict[str, int] = field(default_factory=dict)
    version: int = arrow.SCHEMA_VERSION


def write_worker(folder: str, token: str, record: WorkerRecord) -> None:
    """Writes or replaces the record of one process of the run in ``folder``."""
    name = f"{record.host}-{record.pid}-{token}.json"
    files.write_atomic(files.join(folder, "workers", name), files.json_bytes(dataclasses.asdict(record)))


def read_workers(folder: str) -> list[WorkerRecord]:
    """Returns the records of a run's processes, by name; empty for runs without such records. Raises StoreError."""
    urls = [files.join(folder, "workers", name) for name in files.names(files.join(folder, "workers"))]
    with ThreadPoolExecutor(READERS) as pool:
        return [WorkerRecord(**values) for values in pool.map(layout.read_record, urls)]


def summary(records: list[WorkerRecord]) -> dict[str, int]:
    """Returns the number of processes and hosts, and the per-process maxima of models, devices, threads and memory."""
    if not records:
        return {}
    return {
        "processes": len(records),
        "hosts": len({record.host for record in records}),
        "models_each": max(record.models for record in records),
        "devices_each": max(len(record.devices) or 1 for record in records),
        "threads_each": max(record.threads for record in records),
        "peak_rss_bytes": max(record.peak_rss_bytes for record in records),
    }
