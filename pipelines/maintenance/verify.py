"""Verifies a store: all files that its snapshots name, their consistency, and kept answers."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from captionbeam.pipelines.maintenance.kept_answers import broken_parts
from captionbeam.pipelines.maintenance.shard_check import ShardFacts, check_shard
from captionbeam.schemas.fingerprint import sha256_file
from captionbeam.schemas.records import address
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout, tags
from captionbeam.schemas.store.layout import Snapshot
from captionbeam.schemas.store.reading import Dead, Store, dead_rows
from captionbeam.schemas.store.rows import (
    DeleteRow,
    ManifestRow,
    read_deletes,
    read_manifests,
    totals_of,
    without_columns,
)

READERS = 8
Same = tuple[object, ...]


@dataclass
class Report:
    """What was checked, and the problems, one sentence each."""

    problems: list[str] = field(default_factory=list)
    snapshots: int = 0
    shards: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Opened:
    """A snapshot with its manifest rows and deletes.

    ``listed``: the rows of all its manifests, also those in whose place a later one counts.
    """

    snapshot: Snapshot
    listed: list[ManifestRow]
    manifest: list[ManifestRow]
    deletes: list[DeleteRow]
    dead: dict[str, Dead]


def verify(url: str) -> Report:
    """Reads everything that the store's snapshots name, in parallel, and compares it."""
    report = Report()
    opened = [one for number in layout.snapshot_ids(url) if (one := _open(url, number, report)) is not None]
    report.snapshots = len(opened)
    rows: defaultdict[Same, dict[str | None, ManifestRow]] = defaultdict(dict)  # by file of kept columns
    kinds: defaultdict[str | None, set[str]] = defaultdict(set)  # types in snapshots, by file of kept columns
    for kept, row in ((one.snapshot.kept, row) for one in opened for row in one.manifest):
        rows[without_columns(row)].setdefault(row["columns"], row)
        kinds[row["columns"]].add(kept)
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda same: check_shard(url, [*same.values()], kinds), rows.values())
        facts = dict(zip(rows, found, strict=True))
    report.shards, report.bytes = len(rows), sum(each.bytes for each in facts.values())
    report.problems += [problem for each in facts.values() for problem in each.problems]
    for one in opened:
        shards = {row["shard"]: facts[without_columns(row)] for row in one.manifest}
        report.problems += [
            f"snapshot {one.snapshot.id}: {problem}" for problem in _disagreements(url, one, shards)
        ]
    report.problems += _models(url, [one.snapshot for one in opened])
    report.problems += _tags(url)
    report.problems += broken_parts(url)
    return report


def _open(url: str, number: int, report: Report) -> _Opened | None:
    where = files.join(url, layout.snapshot_name(number))
    try:
        values = files.read_json(where)
        if layout.SEAL in values and values[layout.SEAL] != layout.seal_of(values):
            report.problems.append(f"{where} is damaged: its fields do not have its sha256")
            return None
        lists = values.get(layout.HASHES, {}).items()
        damaged = [
            problem for name, sha256 in lists for problem in _wrong_hash(files.join(url, name), sha256)
        ]
        report.problems += [problem for problem in damaged if problem not in report.problems]
        if damaged:
            return None
        snapshot = layout.load_snapshot(url, number)
        listed = read_manifests(url, snapshot.manifests)
        deletes = read_deletes(url, snapshot.deletes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
        report.problems.append(f"{where} cannot be read: {' '.join(str(err).split())}")
        return None
    manifest = {row["shard"]: row for row in listed}
    return _Opened(snapshot, listed, [*manifest.values()], deletes, dead_rows(deletes))


def _disagreements(url: str, one: _Opened, shards: dict[str, ShardFacts]) -> Iterator[str]:
    same = Counter((without_columns(row), row["columns"]) for row in one.listed)
    for times, (row, _) in ((times, key) for key, times in same.items() if times > 1):
        yield f"shard {row[0]} is in the manifests {times} times"
    for shard, times in Counter(row[0] for row in {row for row, _ in same}).items():
        if times > 1:
            yield f"shard {shard} is in the manifests {times} times, with different files of its rows"
    found = {shard.fingerprint for shard in shards.values() if shard.fingerprint is not None}
    odd = sorted(found - {one.snapshot.fingerprint})
    if odd:
        yield f"has rows of fingerprint {odd[0]}; expected {one.snapshot.fingerprint}"
    for name, value in totals_of(one.manifest, one.deletes).items():
        if one.snapshot.totals.get(name) != value:
            yield f"totals say {name} {one.snapshot.totals.get(name)}; manifests and deletes give {value}"
    yield from _wrong_deletes(one, shards)
    yield from _twice(url, one, shards)


def _wrong_deletes(one: _Opened, shards: dict[str, ShardFacts]) -> Iterator[str]:
    seen: set[tuple[str, int, bool]] = set()
    for delete in one.deletes:
        place = delete["shard"], delete["row"], delete["failed"]
        text = (
            f"the delete of {'failure' if delete['failed'] else 'row'} {delete['row']} of {delete['shard']}"
        )
        found = shards.get(delete["shard"])
        if place in seen:
            yield f"{text} is there twice"
        elif found is None:
            yield f"{text} is of a shard that no manifest has"
        elif not found.problems and not found.has(delete["row"], delete["failed"], delete["image_id"]):
            yield f"{text} is of no row of {delete['image_id']!r}"
        seen.add(place)


def _twice(url: str, one: _Opened, shards: dict[str, ShardFacts]) -> Iterator[str]:
    """Yields images with several live rows. Compares hashes first, then reads the ids of equal hashes."""
    live = [found.live(one.dead.get(shard, Dead())) for shard, found in shards.items()]
    hashes, times = np.unique(np.concatenate([np.empty(0, np.uint64), *live]), return_counts=True)
    twice, places = hashes[times > 1], defaultdict(list)
    store = Store(url, one.snapshot)
    for shard, found in shards.items():
        if len(twice) and np.isin(found.rows, twice).any():
            for row in store.shard_index(shard).to_pylist():
                if not row["failed"]:
                    places[row["image_id"]].append(address(shard, row["row"], False))
    for image_id, several in sorted(places.items()):
        if len(several) > 1:
            yield f"image {image_id!r} has {len(several)} live rows: {', '.join(several)}"


FOLDERS = {"bundle": ("bundle", "config.json"), "transformers": ("model of transformers", "captionbeam.json")}
"""By a specification's key: what it names of ``models/``, and the file there that names the others."""


def _models(url: str, snapshots: list[Snapshot]) -> Iterator[str]:
    """Yields problems of the weights and bundles that the snapshots' specifications name."""
    specs = [snapshot.spec for snapshot in snapshots]
    for sha256 in sorted({sha256 for spec in specs for sha256 in layout.model_hashes(spec)}):
        yield from _wrong_hash(files.join(url, "models", f"{sha256}.safetensors"), sha256)
    for key, (what, manifest) in FOLDERS.items():
        for model in sorted({str(spec[key]) for spec in specs if key in spec}):
            yield from _wrong_files(files.join(url, "models", model), what, manifest)


def _wrong_files(folder: str, what: str, manifest: str) -> Iterator[str]:
    try:
        named = files.read_json(files.join(folder, manifest))["files"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError) as err:
        yield f"{folder} is no whole {what} ({err})"
        return
    for name, sha256 in sorted(named.items()):
        yield from _wrong_hash(files.join(folder, name), sha256)


def _wrong_hash(where: str, sha256: str) -> Iterator[str]:
    try:
        if sha256_file(where) != sha256:
            yield f"{where} is damaged: it does not have sha256 {sha256}"
    except FileNotFoundError:
        yield f"{where} is missing"


def _tags(url: str) -> Iterator[str]:
    numbers = set(layout.snapshot_ids(url))
    for name in files.names(files.join(url, "tags")):
        try:
            number = tags.read_tag(url, name.removesuffix(".json"))
        except ValueError as err:
            yield str(err)
            continue
        if number not in numbers:
            yield f"tag {name.removesuffix('.json')} stands for snapshot {number}, which is not there"
