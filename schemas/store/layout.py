"""Where things lie in a store, and the records that name them.

data/ failures/ index/      written once by an attempt, under names unique to it, never modified
commits/<shard>.json        names an attempt's three files; created if absent, so that the first attempt wins
plans/<run>/                the run's record, its frozen base and its plan
manifests/ deletes/         Parquet: one row a shard; one row a row that is no longer live
snapshots/00000003.json     names manifests and deletes; created if absent
models/                     weights and bundles, named by their content hash
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from captionbeam.schemas.errors import StoreError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats import arrow, parquet
from captionbeam.schemas.storage import files

KINDS = ("features", "captions")
SEAL, HASHES = "sha256", "file_sha256"


@dataclass(frozen=True)
class Commit:
    """One finished shard: the files of the attempt that won, and what is in them.

    ``counts`` has images, ``failed_<code>``, bytes read, and milliseconds by stage, the unit in each name.
    ``rounding``: how far int8 features are from the float16 ones that they stand for (schemas.formats.int8); empty for
    all others.
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
    version: int = arrow.SCHEMA_VERSION

    def manifest_row(self) -> dict[str, Any]:
        """The row of a manifest that stands for this commit."""
        return {name: getattr(self, name) for name in arrow.MANIFEST.names}


@dataclass(frozen=True)
class Snapshot:
    """The published state of a store at one moment.

    ``operation`` is what made it: ``add``, ``refresh``, ``rollback``, ``compact`` or ``purge``; ``note`` says more
    where there is more to say. ``request``: what a refresh repeats: the job, the options that decide rows and values,
    and every source with those of its listing; empty where no job recorded any.
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
    version: int = arrow.SCHEMA_VERSION


def snapshot_name(number: int) -> str:
    """``snapshots/00000003.json``."""
    return f"snapshots/{number:08d}.json"


def snapshot_ids(url: str) -> list[int]:
    """The numbers of all snapshots of the store at ``url``, ascending."""
    stems = [name.removesuffix(".json") for name in files.names(files.join(url, "snapshots"))]
    return sorted(int(stem) for stem in stems if stem.isdigit())


def newest_snapshot(url: str) -> Snapshot | None:
    """The newest snapshot, or None where nothing is published yet."""
    ids = snapshot_ids(url)
    return load_snapshot(url, ids[-1]) if ids else None


def load_snapshot(url: str, number: int) -> Snapshot:
    """Snapshot ``number``. Raises StoreError where there is none, or a newer version wrote it."""
    where = files.join(url, snapshot_name(number))
    try:
        values = files.read_json(where)
    except FileNotFoundError as err:
        known = ", ".join(map(str, snapshot_ids(url))) or "none"
        raise StoreError(f"store {url} has no snapshot {number}; it has {known}") from err
    except json.JSONDecodeError as err:
        raise StoreError(f"{where} is not a snapshot: {err}; expected JSON") from err
    _check_version(values, where)
    for name in (SEAL, HASHES):
        values.pop(name, None)
    lists = {name: tuple(values[name]) for name in ("shape", "manifests", "deletes")}
    return Snapshot(**{**values, **lists})


def load_snapshots(url: str) -> list[Snapshot]:
    """Every snapshot of the store at ``url``, oldest first."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda number: load_snapshot(url, number), snapshot_ids(url)))


def create_snapshot(url: str, snapshot: Snapshot) -> bool:
    """Publish; False where another writer took the number first."""
    return files.create(files.join(url, snapshot_name(snapshot.id)), snapshot_bytes(url, snapshot))


def snapshot_bytes(url: str, snapshot: Snapshot) -> bytes:
    """The snapshot's file: its fields, the SHA-256 of each manifest and delete file, and its own over all that."""
    values = json.loads(files.json_bytes(dataclasses.asdict(snapshot)))
    values[HASHES] = _hashes(url, snapshot)
    return files.json_bytes({**values, SEAL: seal_of(values)})


def seal_of(values: dict[str, Any]) -> str:
    """The SHA-256 of all that stands in a snapshot's file but itself."""
    return sha256_bytes(files.json_bytes({name: value for name, value in values.items() if name != SEAL}))


def _hashes(url: str, snapshot: Snapshot) -> dict[str, str]:
    """Files that the parent names too are not read again."""
    try:
        known = files.read_json(files.join(url, snapshot_name(snapshot.parent or 0))).get(HASHES, {})
    except FileNotFoundError:
        known = {}
    names = (*snapshot.manifests, *snapshot.deletes)
    return {name: known.get(name) or sha256_bytes(files.read_bytes(files.join(url, name))) for name in names}


def model_hashes(spec: Mapping[str, Any]) -> list[str]:
    """Of features of ``spec``: the hashes that name their encoder's weights and their components in ``models/``."""
    named = (spec.get("weights_sha256"), (spec.get("reduction") or {}).get("sha256"))
    return [str(sha256) for sha256 in named if sha256 is not None]


def commit_url(url: str, shard: str) -> str:
    """Where the commit of ``shard`` is, or would be."""
    return files.join(url, "commits", f"{shard}.json")


def create_commit(url: str, commit: Commit) -> bool:
    """Commit; False where another attempt was first, whose files then count."""
    return files.create(commit_url(url, commit.shard), files.json_bytes(dataclasses.asdict(commit)))


def load_commit(url: str, shard: str) -> Commit | None:
    """The commit of ``shard``, or None."""
    try:
        values = files.read_json(commit_url(url, shard))
    except FileNotFoundError:
        return None
    _check_version(values, commit_url(url, shard))
    return Commit(**values)


def committed_shards(url: str) -> set[str]:
    """The ids of all shards that have a commit."""
    return {name.removesuffix(".json") for name in files.names(files.join(url, "commits"))}


def load_commits(url: str, shards: Iterable[str]) -> list[Commit]:
    """Those of the commits that exist, in the order of ``shards``."""
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda shard: load_commit(url, shard), shards)
        return [commit for commit in found if commit is not None]


def write_table(url: str, name: str, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> str:
    """Write a manifest or a delete file under the store at ``url``; gives ``name`` back."""
    stamped = arrow.stamp(schema, name.split("/")[0], "")
    data = parquet.table_bytes(pa.Table.from_pylist(list(rows), schema=stamped))
    files.write_atomic(files.join(url, name), data)
    return name


def read_tables(url: str, names: Iterable[str], schema: pa.Schema) -> pa.Table:
    """The rows of several manifests or delete files, as one table."""
    tables = [parquet.read_table(files.join(url, name)).replace_schema_metadata(None) for name in names]
    return pa.concat_tables([schema.empty_table(), *tables])


def _check_version(values: dict[str, Any], where: str) -> None:
    written = values.get("version")
    if not isinstance(written, int) or written > arrow.SCHEMA_VERSION:
        raise StoreError(
            f"{where} has version {written!r}; this captionbeam reads up to {arrow.SCHEMA_VERSION}: upgrade it"
        )
