"""Vacuum: removes old snapshots, then all files that neither a snapshot nor an unfinished run needs.

It can be interrupted at any time, because of its order. Commits are removed first: the next run would adopt a commit
that no snapshot names, which would restore rows that a rollback or refresh removed, and a commit must not outlive its
files. Snapshots follow, then files. The store is read again before each step, so that everything published or started
meanwhile is kept.
"""

from __future__ import annotations

import functools
import posixpath
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from captionbeam.capmodel.specs import EndpointSpec, complete_spec
from captionbeam.pipelines.endpoints.answer_parts import FOLDER
from captionbeam.pipelines.endpoints.prompts import prompts_of
from captionbeam.pipelines.maintenance.kept_answers import useless_parts
from captionbeam.pipelines.maintenance.stored_files import Entry, list_below, list_files, list_folders, remove
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout, tags
from captionbeam.schemas.store.layout import Commit, Snapshot
from captionbeam.schemas.store.rows import FOLDERS, ManifestRow, files_of, read_manifest, read_manifests

FILE_FOLDERS = (*FOLDERS, "manifests", "deletes", "models")
HOUR = 3600.0


@dataclass
class Garbage:
    """The files that a vacuum removes, in its order: commits, snapshots, everything else."""

    commits: list[Entry] = field(default_factory=list)
    snapshots: list[Entry] = field(default_factory=list)
    others: list[Entry] = field(default_factory=list)

    def entries(self) -> list[Entry]:
        """Returns all entries."""
        return [*self.commits, *self.snapshots, *self.others]


def vacuum(url: str, keep: int, grace_hours: float, clock: Callable[[], float] = time.time) -> list[Entry]:
    """Removes all but the newest ``keep`` and the tagged snapshots, and files that only those named.

    Keeps files younger than ``grace_hours``, and files that a run needs that was active since then. Returns the
    removed entries.
    """
    gone: list[Entry] = []
    for find in (_StoreState.old_commits, _StoreState.dropped, _StoreState.others):
        entries = find(_StoreState(url, keep, clock() - grace_hours * HOUR))
        remove(url, [entry.name for entry in entries])
        gone += entries
    return gone


def find_garbage(url: str, keep: int, grace_hours: float, clock: Callable[[], float] = time.time) -> Garbage:
    """Returns what ``vacuum`` would remove from the store in its current state."""
    state = _StoreState(url, keep, clock() - grace_hours * HOUR)
    return Garbage(state.old_commits(), state.dropped(), state.others())


class _StoreState:
    """The current state of the store: commits, all snapshots and those to keep, and runs that may be active.

    ``waiting`` are commits that no snapshot has named; ``before`` is the start of the grace period (Unix time).
    """

    def __init__(self, url: str, keep: int, before: float) -> None:
        self.url, self.before = url, before
        listed = [entry for entry in list_files(url, "commits") if "/." not in entry.name]
        self.commits = {posixpath.basename(entry.name).removesuffix(".json"): entry for entry in listed}
        self.snapshots = layout.load_snapshots(url)
        self.published = {row["shard"] for row in _rows(url, self.snapshots)}
        self.waiting = {
            commit.shard: commit for commit in layout.load_commits(url, self.commits.keys() - self.published)
        }
        self.runs = list(self._unfinished())
        wanted = {snapshot.id for snapshot in self.snapshots[-keep:]}
        wanted |= {*tags.read_tags(url).values(), *(run.base for run in self.runs if run.base is not None)}
        self.kept = [snapshot for snapshot in self.snapshots if snapshot.id in wanted]

    def old_commits(self) -> list[Entry]:
        """Returns commits that nothing needs, outside the grace period or once named by a snapshot."""
        return [
            entry
            for shard, entry in self.commits.items()
            if (entry.changed < self.before or shard in self.published) and entry.name not in self.named
        ]

    def dropped(self) -> list[Entry]:
        """Returns the files of snapshots that are not kept."""
        names = {
            layout.snapshot_name(snapshot.id) for snapshot in self.snapshots if snapshot not in self.kept
        }
        return [entry for entry in list_files(self.url, "snapshots") if entry.name in names]

    def others(self) -> list[Entry]:
        """Returns other files that nothing needs, outside the grace period."""
        found = [entry for entry in _others(self.url) if entry.name not in self.named]
        return [entry for entry in found if entry.changed < self.before] + self._useless_answers()

    @functools.cached_property
    def named(self) -> set[str]:
        """The paths, below the store, that a kept snapshot, an unfinished run or the grace period needs."""
        rows = _rows(self.url, self.kept)
        shards = {row["shard"]: row for row in rows}
        needed, published = self._needed_commits(), layout.load_commits(self.url, shards)
        # a later run that plans a published shard uses its commit, whose kept columns may be older ones
        rows += [commit.manifest_row() for commit in (*needed, *published)]
        rows += [row for run in self.runs for row in run.adopted]
        specs = [snapshot.spec for snapshot in self.kept] + [run.spec for run in self.runs]
        makers = {snapshot.run for snapshot in self.kept} | {run.name for run in self.runs}
        makers |= {commit.run for commit in (*needed, *published)}
        if any(row["failed"] and shard not in self.commits for shard, row in shards.items()):
            # failures of compacted shards: any plan may have their coordinates
            makers |= set(files.names(files.join(self.url, "plans")))
        return {
            *(f"commits/{shard}.json" for shard in (*shards, *(commit.shard for commit in needed))),
            *(path for row in rows for path, _ in files_of(row)),
            *(f"columns/{name}" for run in self.runs for name in run.columns),
            *(name for snapshot in self.kept for name in (*snapshot.manifests, *snapshot.deletes)),
            *(f"models/{sha256}.safetensors" for spec in specs for sha256 in layout.model_hashes(spec)),
            *(f"models/{spec[key]}" for spec in specs for key in ("bundle", "transformers") if key in spec),
            *(f"plans/{run}" for run in makers),
        }

    def _useless_answers(self) -> list[Entry]:
        """Returns kept answers outside the grace period that are broken, or whose images all have a row.

        The row must have answers to the same prompt, and a kept snapshot or needed commit must have it. Temporary
        files are among them.
        """
        old = [entry for entry in list_below(self.url, FOLDER) if entry.changed < self.before]
        parts = {entry.name: entry for entry in old if "/." not in entry.name}
        temporary = [entry for entry in old if entry.name not in parts]
        if not parts:
            return temporary
        indexes: defaultdict[str, set[str]] = defaultdict(set)
        for prompts, rows in self._rows_by_prompts():
            for prompt in prompts:
                indexes[prompt] |= {row["index"] for row in rows}
        return [*temporary, *(parts[path] for path in useless_parts(self.url, list(parts), indexes))]

    def _rows_by_prompts(self) -> Iterator[tuple[list[str], list[ManifestRow]]]:
        """Yields manifest rows of kept snapshots and needed commits, with the prompts that their shards answer."""
        specs = {fingerprint(run.spec): run.spec for run in self.runs}
        specs |= {snapshot.fingerprint: snapshot.spec for snapshot in self.kept}
        for made_with in {snapshot.fingerprint for snapshot in self.kept}:
            ours = [snapshot for snapshot in self.kept if snapshot.fingerprint == made_with]
            yield _prompts(specs[made_with]), _rows(self.url, ours)
        for commit in self._needed_commits():
            yield _prompts(specs.get(commit.fingerprint, {})), [commit.manifest_row()]
        for run in self.runs:
            yield _prompts(run.spec), run.adopted

    def _needed_commits(self) -> list[Commit]:
        """Returns commits that an unfinished run planned or adopted, and recent ones that no snapshot has named."""
        planned = {shard for run in self.runs for shard in run.planned}
        planned |= {row["shard"] for run in self.runs for row in run.adopted}
        young = {shard for shard, entry in self.commits.items() if entry.changed >= self.before}
        others = layout.load_commits(self.url, planned & self.commits.keys() - self.waiting.keys())
        return others + [c for shard, c in self.waiting.items() if shard in planned or shard in young]

    def _unfinished(self) -> Iterator[_Unfinished]:
        """Yields runs without an end that planned or committed something in the grace period."""
        changes = [(commit.run, self.commits[shard].changed) for shard, commit in self.waiting.items()]
        active = {run for run, changed in changes if changed >= self.before}
        for entry in list_folders(self.url, "plans"):
            name, folder = entry.name.rsplit("/", 1)[-1], files.join(self.url, entry.name)
            ended = files.exists(files.join(folder, "totals.json"))
            if not ended and (entry.changed >= self.before or name in active):
                yield _unfinished(name, folder)


@dataclass(frozen=True)
class _Unfinished:
    """What a possibly active run needs. A killed run cannot be distinguished from one until the grace period ends.

    ``columns``: names of files of kept columns that it has written for shards of its base.
    """

    name: str
    base: int | None
    spec: Mapping[str, Any]
    adopted: list[ManifestRow]
    planned: set[str]
    columns: list[str]


def _unfinished(name: str, folder: str) -> _Unfinished:
    record = files.read_json(files.join(folder, "run.json")) if "run.json" in files.names(folder) else {}
    base = ["base.parquet"] if "base.parquet" in files.names(folder) else []
    adopted = read_manifest(folder, base)
    parts = files.join(folder, "parts")
    planned = {
        shard
        for part in files.names(parts)
        for shard in parquet.read_table(files.join(parts, part), ["shard"]).column("shard").to_pylist()
    }
    written = files.join(folder, "columns")
    columns = [files.read_json(files.join(written, one))["columns"] for one in files.names(written)]
    base_id, spec = record.get("base", {}).get("snapshot"), record.get("spec", {})
    return _Unfinished(name, base_id, spec, adopted, planned, columns)


def _prompts(spec: Mapping[str, Any]) -> list[str]:
    """Returns the fingerprints of the prompts of a store's specification; none if no endpoint made its rows."""
    if "endpoint" not in spec:
        return []
    try:
        return [prompt.fingerprint for prompt in prompts_of(EndpointSpec(**complete_spec(spec)))]
    except TypeError:  # a newer version's option, which this one cannot hash
        return []


def _rows(url: str, snapshots: Iterable[Snapshot]) -> list[ManifestRow]:
    """Returns the manifest rows of all shards of several snapshots.

    A shard has several rows if the snapshots name different kept columns.
    """
    snapshots = list(snapshots)
    found: defaultdict[str, dict[str, ManifestRow]] = defaultdict(dict)
    for name in sorted({name for snapshot in snapshots for name in snapshot.manifests}):
        for row in read_manifests(url, [name]):
            found[row["shard"]][name] = row
    rows: list[ManifestRow] = []
    for of_shard in found.values():
        if len(of_shard) > 1:
            last = (
                next((name for name in reversed(one.manifests) if name in of_shard), "") for one in snapshots
            )
            rows += [of_shard[name] for name in dict.fromkeys(last) if name]
        else:
            rows += of_shard.values()
    return rows


def _others(url: str) -> list[Entry]:
    """Returns everything except commits and snapshots: files, plans, models, and temporary files in any folder."""
    found = [entry for folder in FILE_FOLDERS for entry in list_files(url, folder)]
    for folder in ("commits", "snapshots", "tags"):
        found += [entry for entry in list_files(url, folder) if "/." in entry.name]
    return [*found, *list_folders(url, "plans"), *list_folders(url, "models")]
