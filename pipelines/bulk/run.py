"""A run: one launch of a job on one store. Its base is frozen and recorded before any work starts.

This module does not use Beam.
"""

from __future__ import annotations

import dataclasses
import datetime
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from os.path import splitext
from typing import Any

import pyarrow as pa

from captionbeam.capmodel.specs import complete_spec
from captionbeam.capmodel.templates import columns_of_prompts
from captionbeam.schemas.errors import FingerprintError, RequestError
from captionbeam.schemas.fingerprint import difference
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.datafile import SUFFIX, check_format
from captionbeam.schemas.formats.tokens import TABLE
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.layout import Snapshot, now
from captionbeam.schemas.store.reading import Store
from captionbeam.schemas.store.rows import ManifestRow, put_table, read_manifest
from captionbeam.schemas.store.tags import split_selector

SCORE = "score"
REDOING = ("refresh", SCORE)
"""Operations that may do all rows of a store again."""
PACKAGES = ("captionbeam", "apache-beam", "torch", "torchvision", "pyarrow", "numpy")


@dataclass(frozen=True)
class Run:
    """The parameters that every step of a run needs; small and picklable.

    ``column`` and ``shape`` describe the processor's output. ``parent`` is the newest snapshot's number at launch
    (None for a new store). ``fingerprint`` is the hash of ``spec``. ``redo``: the parent's rows have another
    fingerprint and none are kept. ``place`` is the folder of the run's record and plan; if it is not the store, the
    run is a trial that does not change the store. ``request``: how to repeat the run, as recorded in snapshots.
    ``retired``: sources that later runs do not list. ``previous``: the snapshot of which a redo copies the answers
    to unchanged prompts, or a redo or a scoring all captions if at most their scorer is another: ``rescored``.
    ``keeps``: columns of the input are kept beside the rows. ``exif``: names of what is kept of each image file
    (``pipelines.workers.exif.NAMES``). ``adopts``: an image whose location the base has under another id takes over
    that row.
    """

    url: str
    run_id: str
    kind: str
    format: str
    fingerprint: str
    spec: Mapping[str, Any]
    column: str
    shape: tuple[int, ...]
    parent: int | None
    operation: str = "add"
    redo: bool = False
    place: str = ""
    request: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    retired: tuple[str, ...] = ()
    previous: int | None = None
    rescored: bool = False
    keeps: bool = False
    exif: tuple[str, ...] = ()
    adopts: bool = False

    @property
    def folder(self) -> str:
        """``plans/<run>``, the folder of the run's record, base and plan."""
        return files.join(self.place or self.url, "plans", self.run_id)

    @property
    def used_columns(self) -> frozenset[str]:
        """The columns of the input that prompts use."""
        return frozenset(columns_of_prompts(self.spec))

    @property
    def base(self) -> int | None:
        """The snapshot whose rows count as done, if any."""
        return None if self.redo else self.parent


def start_run(
    url: str,
    kind: str,
    spec: Mapping[str, Any],
    fingerprint: str,
    field: Any,
    file_format: str = "parquet",
    options: Mapping[str, Any] | None = None,
    operation: str = "add",
    place: str = "",
    runner: Mapping[str, Any] | None = None,
    request: Mapping[str, Any] | None = None,
    retired: Sequence[str] = (),
    keeps: bool = False,
    exif: Sequence[str] = (),
) -> Run:
    """Freezes the base of a new run on the store at ``url`` and writes its record (below ``place``, if given).

    ``field`` is the Arrow field of the output column; ``operation`` is ``add``, ``refresh`` or ``score``; ``runner``
    describes the runner for the record; for ``request``, ``retired``, ``keeps`` and ``exif`` see ``Run``. Raises
    RequestError if the store is not writable, StoreError if a newer version wrote it, and FingerprintError if its rows
    have another fingerprint (a refresh and a scoring redo all rows instead).
    """
    url = files.absolute(url)
    check_no_snapshot(url)
    try:
        newest = layout.newest_snapshot(url)
        if newest is None:
            _check_free(url)
        redo = operation in REDOING and newest is not None and newest.fingerprint != fingerprint
        check_same(url, newest, kind, check_format(file_format), spec, None if redo else fingerprint)
        shape = arrow.grid_shape(field)[0] if arrow.is_grid(field) else ()
        parent = newest.id if newest else None
        described = (kind, file_format, fingerprint, dict(spec), field.name, shape, parent)
        before = newest.spec if newest and (redo or operation == SCORE) else {}
        rescored, prompted = same_but_scorer(before, spec), "prompts" in spec and "prompts" in before
        previous = parent if rescored or prompted else None
        again = (operation, redo, place, dict(request or {}), tuple(retired), previous, rescored)
        run = Run(url, _new_id(), *described, *again, keeps=keeps, exif=tuple(exif))
        _write_record(run, options or {}, _unpublished(run), runner or {})
    except (OSError, ImportError) as err:
        raise RequestError(
            f"{url} cannot be used as a store: {err}; expected a writable folder or URL"
        ) from err
    return run


def same_but_scorer(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Returns whether two specifications of captions differ at most in what scores these, and ``new`` has scores.

    Not if ``old`` alone orders captions by score: the captioner's own order is not stored.
    """
    both = [{name: value for name, value in spec.items() if name != "scorer"} for spec in (old, new)]
    reranked = [bool(spec.get("scorer", {}).get("rerank")) for spec in (old, new)]
    return "scorer" in new and both[0] == both[1] and reranked != [True, False]


def _check_free(url: str) -> None:
    """Raises RequestError if the folder already contains something else."""
    for name, what in (("config.json", "a bundle or another model"), (TABLE, "a token table")):
        if files.exists(files.join(url, name)):
            raise RequestError(f"{url} holds {what} ({name}); expected a store, or a new folder")
    there = [name for name in files.names(url) if name not in ("models", "lost+found")]
    if there and "plans" not in there:
        named = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
        raise RequestError(f"{url} holds other files ({named}); expected a store, or a new or empty folder")


def check_no_snapshot(url: str) -> None:
    """Raises RequestError for an output ``STORE@prod``, as a folder of that name would hide the snapshot."""
    store, selector = split_selector(url)
    if selector is not None and layout.snapshot_ids(store):
        raise RequestError(f"{url} is a snapshot of {store}, to be read; expected {store}, or another output")


def _write_record(
    run: Run, options: Mapping[str, Any], adopted: list[layout.Commit], runner: Mapping[str, Any]
) -> None:
    rows = [commit.manifest_row() for commit in adopted]
    base = pa.Table.from_pylist(rows, arrow.MANIFEST)
    put_table(run.place or run.url, f"plans/{run.run_id}/base.parquet", base)
    record = {
        "run": run.run_id,
        "url": run.url,
        "started": now(),
        "kind": run.kind,
        "operation": run.operation,
        "fingerprint": run.fingerprint,
        "spec": run.spec,
        "options": dict(options),
        "runner": dict(runner),
        "versions": versions(),
        "base": {"snapshot": run.base, "adopted_shards": len(adopted)},
    }
    if not files.create(files.join(run.folder, "run.json"), files.json_bytes(record)):
        raise RequestError(f"run {run.run_id} exists in {run.url}; expected a new one")


def url_before(url: str) -> str:
    """Returns the store's URL from the newest snapshot that has a run record; '' if there is none."""
    for number in reversed(layout.snapshot_ids(url)):
        record = files.join(url, "plans", layout.load_snapshot(url, number).run, "run.json")
        if files.exists(record):
            return str(files.read_json(record).get("url", ""))
    return ""


def moved_sources(url: str, names: Iterable[str]) -> dict[str, str]:
    """Returns ``{former source name: current name}`` for sources that were moved together with the store.

    Applies until a run publishes at the store's current location.
    """
    url, named = files.absolute(url), list(names)
    other = url_before(url)
    before = {name_before(name, url, other): name for name in named if other not in ("", url)}
    return {old: name for old, name in before.items() if old and old not in named}


def name_before(name: str, url: str, other: str) -> str:
    """Returns a source's name before the store moved from ``other`` to ``url`` with it; '' if it did not."""
    parts, store, there = name.split("/"), url.split("/"), other.split("/")
    same = [one == two for one, two in zip(parts, store, strict=False)]
    common = same.index(False) if False in same else len(same)
    tail = store[common:]
    if not tail or there[-len(tail) :] != tail:
        return ""
    return "/".join([*there[: -len(tail)], *parts[common:]])


def base_manifest(run: Run) -> list[ManifestRow]:
    """Returns the frozen base's shards as manifest rows: the parent snapshot's, then the adopted ones."""
    published = Store.open(run.url, run.base).shards if run.base is not None else []
    return published + adopted_manifest(run)


def adopted_manifest(run: Run) -> list[ManifestRow]:
    """Returns the commits that interrupted runs left unpublished, as manifest rows."""
    return read_manifest(run.folder, ["base.parquet"])


def merged_request(earlier: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Returns how to repeat a store after ``run``: its options, and all runs' sources except retired ones.

    A run over a features snapshot has no sources and leaves none.
    """
    if not run.request:
        return dict(earlier)
    sources = {} if run.request["options"].get("features") else _by_name(earlier) | _by_name(run.request)
    kept = [entry for name, entry in sources.items() if name not in run.retired]
    return {**run.request, "sources": kept}


def lists_all(run: Run, request: Mapping[str, Any]) -> bool:
    """Returns whether the run is a refresh that lists all images of all sources of a store's ``request``."""
    entries = [run.request.get("options", {}), *run.request.get("sources", ())]
    is_part = any(name in entry for entry in entries for name in ("sample", "limit"))
    return (
        run.operation == "refresh"
        and not is_part
        and _by_name(request).keys() <= _by_name(run.request).keys()
    )


def _by_name(request: Mapping[str, Any]) -> dict[str, Any]:
    return {entry["source"]: entry for entry in request.get("sources", ())}


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _new_id() -> str:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{uuid.uuid4().hex[:8]}"


def check_same(
    url: str,
    newest: Snapshot | None,
    kind: str,
    file_format: str,
    spec: Mapping[str, Any],
    fingerprint: str | None,
) -> None:
    """Raises RequestError or FingerprintError if the store has another kind, format or fingerprint.

    ``fingerprint``: the one of ``spec``; None accepts any.
    """
    if newest is None:
        return
    if newest.kind != kind:
        raise RequestError(f"{url} is a store of {newest.kind}; expected one of {kind}, or a new folder")
    if newest.format != file_format:
        raise RequestError(
            f"{url} holds {newest.format} shards; expected --format {newest.format}, not {file_format}"
        )
    if fingerprint is not None and newest.fingerprint != fingerprint:
        if "scorer" in newest.spec and same_but_scorer(spec, newest.spec):
            raise FingerprintError(
                f"{url} has scores, and this command gives none, or others; expected --score or --rerank with the "
                "model that the store has (captionbeam store show), captionbeam refresh, or a new --output"
            )
        known = difference(complete_spec(newest.spec), complete_spec(spec))
        said = known or f"fingerprint {newest.fingerprint[:12]}, not {fingerprint[:12]}"
        asked = "prompts" in spec and "prompts" in newest.spec
        again = "asks what is new or changed" if asked else "does all of it again"
        what = "model, prompts and options" if asked else "encoder, weights, preprocessing and options"
        raise FingerprintError(
            f"{url} was made with {said}; expected the same {what}, or a new --output (captionbeam refresh --redo "
            f"{again})"
        )


def _unpublished(run: Run) -> list[layout.Commit]:
    """Returns commits that no snapshot ever had. Commits dropped later (by a rollback) were removed on purpose."""
    manifests = {name for snapshot in layout.load_snapshots(run.url) for name in snapshot.manifests}
    published = {row["shard"] for row in read_manifest(run.url, sorted(manifests))}
    waiting = sorted(layout.committed_shards(run.url) - published)
    commits = layout.load_commits(run.url, waiting)
    suffixes = ("", SUFFIX[run.format])  # a shard whose images all failed has no data file
    return [
        commit
        for commit in commits
        if commit.fingerprint == run.fingerprint and splitext(commit.data)[1] in suffixes
    ]
