"""Stores with a history: each ``advance`` is a run that lists images, does what is new, and publishes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from captionbeam.pipelines.bulk.plan import write_plan
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.bulk.run import Run, start_run
from captionbeam.pipelines.bulk.skip import _index_files, decide, read_base
from captionbeam.schemas import Store
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
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


def plan(run: Run, images: Mapping[str, str], shard_size: int = 4, retry: bool = False) -> list[ImageRef]:
    """Plan what a listing of ``images`` (id to version) leaves to be done."""
    base = defaultdict(list)
    for task in _index_files(run):
        for name, row in read_base(*task):
            base[name].append(row)
    refs = [ImageRef(name, f"/images/{name}", "/images", version) for name, version in sorted(images.items())]
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
) -> Store:
    """One whole run over ``images`` (id to version)."""
    run = start(url, field, file_format)
    plan(run, images, shard_size)
    process(run, field, fails)
    finish(run)
    return Store.open(url)


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


def outcomes(store: Store) -> tuple[dict[str, tuple[str, Any]], dict[str, str]]:
    """What a reader sees of a snapshot: rows, and failures with their codes."""
    return content(store), {row["image_id"]: row["code"] for row in store.failures().to_pylist()}
