"""Layout of a store, and its commit and snapshot records.

data/ failures/ index/   written once by an attempt, with names unique to it, never modified
columns/                 likewise: the kept columns of a shard's index rows, in their order (formats.kept)
commits/<shard>.json     names an attempt's files; created if absent, so the first attempt wins
answers/<prompt>/        endpoints' answers until a shard's commit has them, written once (pipelines.endpoints)
plans/<run>/             the run's record, its frozen base and its plan
manifests/ deletes/      Parquet: one row per shard, of which a later manifest may have another one with newer columns;
                         one row per superseded or deleted row
snapshots/00000003.json  names manifests and delete files; created if absent
models/                  weights and bundles, named by content hash
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

from captionbeam.schemas.errors import StoreError, SystemicError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.rows import ManifestRow
from captionbeam.schemas.versions import check_version

KINDS = ("features", "captions")
ATTEMPTS = 100  # to publish a snapshot while others publish
SEAL, HASHES = "sha256", "file_sha256"


@dataclass(frozen=True)
class Commit:
    """A finished shard: the files of the winning attempt and their contents.

    ``counts`` has images, ``failed_<code>``, bytes read, and milliseconds per stage, with the unit in each name.
    ``rounding``: the difference of int8 features from their float16 originals (schemas.formats.int8), over the rows
    that this shard's run quantised; empty if there are none, because all were copied or none is int8.
    """

    shard: str
    run: str
    fingerprint: str
    data: str
    failures: str
    index: str
    rows: int
    failed: int
    bytes: int
    data_sha256: str
    failures_sha256: str
    index_sha256: str
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    rounding: dict[str, float] = dataclasses.field(default_factory=dict)
    columns: str | None = None
    columns_sha256: str | None = None
    version: int = arrow.SCHEMA_VERSION

    def manifest_row(self) -> ManifestRow:
        """Returns this commit's row in a manifest."""
        return cast(ManifestRow, {name: getattr(self, name) for name in arrow.MANIFEST.names})


@dataclass(frozen=True)
class Snapshot:
    """A published state of a store.

    ``operation`` is ``add``, ``refresh``, ``score``, ``rollback``, ``compact`` or ``purge``; ``note`` is an optional
    remark. ``request`` is what a refresh repeats: the job, the options that affect rows and values, and each source
    with its listing options; empty if no job recorded it. ``kept``: names and types of the kept columns, as from
    ``schema_text``; '' if there are none. ``exif``: likewise of what image files say of themselves.
    """

    id: int
    parent: int | None
    run: str
    kind: str
    format: str
    fingerprint: str
    spec: dict[str, Any]
    column: str
    shape: tuple[int, ...]
    manifests: tuple[str, ...]
    deletes: tuple[str, ...]
    totals: dict[str, int]
    created: str
    operation: str = "add"
    note: str = ""
    request: dict[str, Any] = dataclasses.field(default_factory=dict)
    kept: str = ""
    exif: str = ""
    version: int = arrow.SCHEMA_VERSION


def now() -> str:
    """Returns the time in UTC, in ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def snapshot_name(number: int) -> str:
    """Returns a snapshot's path in the store, such as ``snapshots/00000003.json``."""
    return f"snapshots/{number:08d}.json"


def snapshot_ids(url: str) -> list[int]:
    """Returns the numbers of all snapshots of the store at ``url``, ascending."""
    stems = [name.removesuffix(".json") for name in files.names(files.join(url, "snapshots"))]
    return sorted(int(stem) for stem in stems if stem.isdigit())


def newest_snapshot(url: str) -> Snapshot | None:
    """Returns the newest snapshot, or None if none is published."""
    ids = snapshot_ids(url)
    return load_snapshot(url, ids[-1]) if ids else None


def load_snapshot(url: str, number: int) -> Snapshot:
    """Loads snapshot ``number``. Raises StoreError if it does not exist, is invalid, or a newer version wrote it."""
    where = files.join(url, snapshot_name(number))
    try:
        values = read_record(where)
    except FileNotFoundError as err:
        known = ", ".join(map(str, snapshot_ids(url))) or "none"
        raise StoreError(f"store {url} has no snapshot {number}; it has {known}") from err
    except json.JSONDecodeError as err:
        raise StoreError(f"{where} is not a snapshot: {err}; expected JSON") from err
    for name in (SEAL, HASHES):
        values.pop(name, None)
    lists = {name: tuple(values[name]) for name in ("shape", "manifests", "deletes")}
    return Snapshot(**{**values, **lists})


def load_snapshots(url: str) -> list[Snapshot]:
    """Loads all snapshots of the store at ``url``, oldest first."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda number: load_snapshot(url, number), snapshot_ids(url)))


def create_snapshot(url: str, snapshot: Snapshot) -> bool:
    """Publishes ``snapshot``. Returns False if another writer has used its number."""
    return files.create(files.join(url, snapshot_name(snapshot.id)), snapshot_bytes(url, snapshot))


def publish_next(url: str, next_after: Callable[[Snapshot | None], Snapshot | None]) -> Snapshot:
    """Publishes the result of ``next_after`` for the newest snapshot; repeats this if others publish meanwhile.

    Sets number, parent and time. If ``next_after`` returns None, publishes nothing and returns the newest snapshot.
    Raises StoreError if there is none, SystemicError if others always publish first.
    """
    for _ in range(ATTEMPTS):
        newest = newest_snapshot(url)
        wanted = next_after(newest)
        if wanted is None and newest is None:
            raise StoreError(f"{url} has no published snapshot; expected a store that a finished job wrote")
        if wanted is None:
            return cast(Snapshot, newest)
        number, parent = (newest.id + 1, newest.id) if newest else (1, None)
        snapshot = dataclasses.replace(wanted, id=number, parent=parent, created=now())
        if create_snapshot(url, snapshot):
            return snapshot
    raise SystemicError(f"{ATTEMPTS} others published to {url} first, one after the other; expected a turn")


def snapshot_bytes(url: str, snapshot: Snapshot) -> bytes:
    """Returns the snapshot file: fields, SHA-256 of each manifest and delete file, and a SHA-256 over all of these."""
    values = json.loads(files.json_bytes(dataclasses.asdict(snapshot)))
    values[HASHES] = _hashes(url, snapshot)
    return files.json_bytes({**values, SEAL: seal_of(values)})


def seal_of(values: dict[str, Any]) -> str:
    """Returns the SHA-256 of a snapshot file's values, except the seal itself."""
    return sha256_bytes(files.json_bytes({name: value for name, value in values.items() if name != SEAL}))


def _hashes(url: str, snapshot: Snapshot) -> dict[str, str]:
    """Returns the SHA-256 of each file. Hashes that the parent snapshot has are reused."""
    try:
        known = files.read_json(files.join(url, snapshot_name(snapshot.parent or 0))).get(HASHES, {})
    except FileNotFoundError:
        known = {}
    names = (*snapshot.manifests, *snapshot.deletes)
    return {name: known.get(name) or sha256_bytes(files.read_bytes(files.join(url, name))) for name in names}


def model_hashes(spec: Mapping[str, Any]) -> list[str]:
    """Returns the hashes that name the encoder weights and components of a features ``spec`` in ``models/``."""
    named = (spec.get("weights_sha256"), (spec.get("reduction") or {}).get("sha256"))
    return [str(sha256) for sha256 in named if sha256 is not None]


def value_columns(spec: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """Returns the names of all columns of values, sorted: one for each prompt of the ``spec``, or ``column`` alone."""
    return tuple(sorted(spec.get("prompts", ()))) or (column,)


def commit_url(url: str, shard: str) -> str:
    """Returns the URL of the commit of ``shard``, whether or not it exists."""
    return files.join(url, "commits", f"{shard}.json")


def create_commit(url: str, commit: Commit) -> bool:
    """Writes the commit. Returns False if another attempt committed first; its files are used then."""
    return files.create(commit_url(url, commit.shard), files.json_bytes(dataclasses.asdict(commit)))


def load_commit(url: str, shard: str) -> Commit | None:
    """Loads the commit of ``shard``, or returns None."""
    try:
        return Commit(**read_record(commit_url(url, shard)))
    except FileNotFoundError:
        return None


def committed_shards(url: str) -> set[str]:
    """Returns the ids of all shards that have a commit."""
    return {name.removesuffix(".json") for name in files.names(files.join(url, "commits"))}


def load_commits(url: str, shards: Iterable[str]) -> list[Commit]:
    """Loads the existing commits of ``shards``, in their order."""
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda shard: load_commit(url, shard), shards)
        return [commit for commit in found if commit is not None]


def read_record(url: str) -> dict[str, Any]:
    """Returns a JSON record of a store. Raises FileNotFoundError, StoreError if a newer version wrote it."""
    values: dict[str, Any] = files.read_json(url)
    check_version(values.get("version"), arrow.SCHEMA_VERSION, url)
    return values
