"""Stores with a history: each ``advance`` is a run that lists images, does what is new, and publishes."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from captionbeam.pipelines.bulk.kept_schema import write_kept_schema
from captionbeam.pipelines.bulk.plan import write_plan
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.bulk.run import Run, start_run
from captionbeam.pipelines.bulk.skip import _index_files, decide, read_base
from captionbeam.schemas import Store
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.formats import arrow, kept, parquet
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.rows import put_table, write_lists
from tests.builders.data.stores import Echo, as_item, commit_all

GRID = arrow.grid_field("grid", (2, 2, 3))
CAPTIONS = arrow.captions_field()
SPEC = {"made": "by hand"}


def value_of(name: str, version: str | None, field: pa.Field) -> Any:
    """What an image's row holds: a grid or vector, or captions, that its name and version decide."""
    if arrow.is_grid(field):
        seed = [*f"{name}\0{version}".encode()]
        return np.random.default_rng(seed).random(arrow.grid_shape(field)[0]).astype(np.float16)
    words = ["a", *name.split("/"), str(version)]
    return [{"text": " ".join(words), "logprob": -1.5, "tokens": words}]


def start(url: str, field: pa.Field = GRID, file_format: str = "parquet", **options: Any) -> Run:
    """A run on the store at ``url``."""
    kind = "captions" if field.name == "captions" else "features"
    return start_run(url, kind, SPEC, fingerprint(SPEC), field, file_format, **options)


def plan(
    run: Run,
    images: Mapping[str, str],
    shard_size: int = 4,
    retry: bool = False,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[ImageRef]:
    """Plan what a listing of ``images`` (id to version) leaves to be done; ``columns`` are their kept columns."""
    base = defaultdict(list)
    for task in _index_files(run):
        for name, row in read_base(*task):
            base[name].append(row)
    refs = [
        ImageRef(
            name, f"/images/{name}", "/images", version, columns=kept.packed((columns or {}).get(name, {}))
        )
        for name, version in sorted(images.items())
    ]
    if run.keeps:
        write_kept_schema(run, _types(ref.columns for ref in refs))
    todo = [ref for ref in (decide([ref], base[ref.image_id], retry) for ref in refs) if ref is not None]
    write_plan(run, "loose-0", todo, shard_size)
    return todo


def process(run: Run, field: pa.Field = GRID, fails: Mapping[str, str] | None = None) -> None:
    """Process all that is planned; ``fails`` has the codes of images that fail."""

    def fetch(refs: Any) -> list[Any]:
        failing = fails or {}
        return [
            ImageError(failing[ref.image_id], "fetch", "made to fail")
            if ref.image_id in failing
            else as_item(value_of(ref.image_id, ref.version, field))
            for ref in refs
        ]

    commit_all(run, Echo(field), fetch)


def advance(
    url: str,
    images: Mapping[str, str],
    field: pa.Field = GRID,
    fails: Mapping[str, str] | None = None,
    shard_size: int = 4,
    file_format: str = "parquet",
    columns: Mapping[str, Mapping[str, Any]] | None = None,
) -> Store:
    """One whole run over ``images`` (id to version), which keeps ``columns`` (by id)."""
    run = start(url, field, file_format, keeps=columns is not None)
    plan(run, images, shard_size, columns=columns)
    process(run, field, fails)
    finish(run)
    return Store.open(url)


def write_columns(url: str, columns: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Writes the newest snapshot's kept columns anew where an image has others. Returns these shards' manifest rows."""
    rows = []
    for row in Store.open(url).shards:
        index = parquet.read_table(f"{url}/index/{row['index']}").select(["image_id", "failed"]).to_pylist()
        if all(image["image_id"] not in columns for image in index):
            continue
        old, before = [""] * len(index), 0
        if row["columns"] is not None:
            place = f"{url}/columns/{row['columns']}"
            old = parquet.read_table(place).column(kept.TEXT).to_pylist()
            before = len(files.read_bytes(place))
        new = {name: kept.packed(values) for name, values in columns.items()}
        texts = [new.get(image["image_id"], text) for image, text in zip(index, old, strict=True)]
        named = [(one["image_id"], one["failed"], text) for one, text in zip(index, texts, strict=True)]
        path = f"columns/{row['shard']}-{len(files.names(f'{url}/columns')):012}.parquet"
        table = kept.table_of(named, _types(texts))
        written = put_table(url, path, table, layout.newest_snapshot(url).fingerprint)
        size = row["bytes"] - before + written.bytes
        rows.append({**row, "bytes": size, "columns": written.name, "columns_sha256": written.sha256})
    return rows


def change_columns(url: str, columns: Mapping[str, Mapping[str, Any]]) -> Store:
    """Publishes other kept columns of some images, as a refresh does of a list with other values."""

    def changed(newest: layout.Snapshot) -> layout.Snapshot:
        old = {row["shard"]: row["bytes"] for row in Store(url, newest).shards}
        rows = write_columns(url, columns)
        names, _ = write_lists(url, f"{newest.id + 1:08d}-columns.parquet", rows, [])
        more = sum(row["bytes"] - old[row["shard"]] for row in rows)
        seen = _types(map(kept.packed, columns.values()))
        return dataclasses.replace(
            newest,
            operation="refresh",
            manifests=(*newest.manifests, *names),
            totals={**newest.totals, "bytes": newest.totals["bytes"] + more},
            kept=kept.schema_text(kept.merged(kept.schema_of(newest.kept), seen)),
        )

    layout.publish_next(url, changed)
    return Store.open(url)


def _types(texts: Iterable[str]) -> pa.Schema:
    types = kept.Types()
    for text in texts:
        types.see(text)
    return types.schema()


def finish(run: Run) -> None:
    """Publish, and write the end of the run down."""
    publish(run)
    files.write_atomic(files.join(run.folder, "totals.json"), files.json_bytes({}))


def content(store: Store) -> dict[str, tuple[str, Any]]:
    """Every live image's version and value."""
    found = {}
    for batch in store.scan(["image_id", "version", store.column]):
        column = batch.column(store.column)
        values = column.to_numpy_ndarray().tolist() if store.shape else column.to_pylist()
        ids, versions = (batch.column(name).to_pylist() for name in ("image_id", "version"))
        found.update(zip(ids, zip(versions, values, strict=True), strict=True))
    return found


def kept_columns(store: Store) -> dict[str, dict[str, Any]]:
    """The kept columns of every live image and failure, without nulls; none for an image without any."""
    names = store.kept.names
    found = [row for batch in store.scan(["image_id", *names]) for row in batch.to_pylist()]
    found += store.failures().select(["image_id", *names]).to_pylist()
    return {row["image_id"]: {name: row[name] for name in names if row[name] is not None} for row in found}


def outcomes(store: Store) -> tuple[dict[str, tuple[str, Any]], dict[str, str]]:
    """What a reader sees of a snapshot: rows, and failures with their codes."""
    return content(store), {row["image_id"]: row["code"] for row in store.failures().to_pylist()}
