"""Tiny real stores, made by the code that makes large ones: plan, process_shard, publish."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.bulk.kept_schema import write_kept_schema
from captionbeam.pipelines.bulk.plan import planned_shards, read_shard, write_plan
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.bulk.run import Run, start_run
from captionbeam.pipelines.endpoints.json_schema import parsed
from captionbeam.pipelines.endpoints.prompts import Prompt, prompts_of
from captionbeam.pipelines.workers.engine import Engine
from captionbeam.pipelines.workers.shards import process_shard
from captionbeam.schemas import Store
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.int8 import stored_columns
from captionbeam.schemas.formats.kept import kept_type, packed, plain_values
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout


class Echo:
    """A processor that gives each item back: grids for features, for captions the list of them out of JSON.

    Of several fields, an item has the lists by name.
    """

    def __init__(self, *fields: pa.Field, batch_size: int = 4) -> None:
        self.schema, self.batch_size = pa.schema(fields), batch_size
        self.fingerprint, self.streams = "", 1

    def prepare(self, item: Any) -> Any:
        return json.loads(item) if isinstance(item, bytes) else item

    def run(self, batch: list[Any], image_ids: list[str]) -> dict[str, Any]:
        field = self.schema.field(0)
        if isinstance(batch[0], dict):
            return {one.name: pa.array([item[one.name] for item in batch], one.type) for one in self.schema}
        return {field.name: np.stack(batch) if arrow.is_grid(field) else pa.array(batch, field.type)}


def make_store(
    url: str,
    kind: str,
    field: pa.Field,
    items: Mapping[str, Any],
    spec: Mapping[str, Any] | None = None,
    file_format: str = "parquet",
    shard_size: int = 4,
    locations: Mapping[str, str] | None = None,
    dtype: str = "float16",
    more: Sequence[pa.Field] = (),
    kept: pa.Table | None = None,
) -> Store:
    """A store with one row for each of ``items`` (an ImageError makes a failure row), published.

    ``dtype``: what float16 features are kept as. ``more``: columns beside that of ``field``. ``kept``: what stands
    beside each of ``items`` in the source.
    """
    spec = dict(spec or {"made": "by hand"})
    run = start_run(url, kind, spec, fingerprint(spec), field, file_format, keeps=kept is not None)
    refs = [ImageRef(name, (locations or {}).get(name, f"/images/{name}"), "/images", "v1") for name in items]
    if kept is not None:
        write_kept_schema(run, pa.schema([(one.name, kept_type(one.type)) for one in kept.schema]))
        values = [plain_values(column.combine_chunks()) for column in kept.columns]
        texts = [packed(dict(zip(kept.column_names, row, strict=True))) for row in zip(*values, strict=True)]
        refs = [ref._replace(columns=text) for ref, text in zip(refs, texts, strict=True)]
    write_plan(run, "loose-0", refs, shard_size)

    def fetch(window: Sequence[ImageRef]) -> list[Any]:
        return [as_item(items[ref.image_id]) for ref in window]

    processor = Echo(field, *more)
    if dtype != "float16":
        processor.schema = stored_columns(field.name, arrow.grid_shape(field)[0], dtype)
    commit_all(run, processor, fetch)
    publish(run)
    return Store.open(url)


def rows_of(store: Store | str | Path, **how: Any) -> dict[str, np.ndarray]:
    """Each image's features by its id; asserts that no image is there twice."""
    store = store if isinstance(store, Store) else Store.open(str(store))
    found: dict[str, np.ndarray] = {}
    for batch in store.scan(["image_id", store.column], **how):
        for name, row in zip(batch.column(0).to_pylist(), batch.column(1).to_numpy_ndarray(), strict=True):
            assert name not in found, f"{name} is there twice"
            found[name] = row
    return found


def content(url: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every row and every failure of a store's newest snapshot, by image; each image is there once."""
    store = Store.open(str(url))
    rows = [row for batch in store.scan() for row in batch.to_pylist()]
    failures = store.failures().to_pylist()
    assert len({row["image_id"] for row in rows + failures}) == len(rows) + len(failures)
    return tuple(sorted(each, key=lambda row: row["image_id"]) for each in (rows, failures))  # type: ignore[return-value]


def commits(store: str | Path) -> dict[str, bytes]:
    """Each commit's bytes by shard: whoever does a committed shard again would change them."""
    url = str(store)
    return {shard: files.read_bytes(layout.commit_url(url, shard)) for shard in layout.committed_shards(url)}


def as_item(value: Any) -> Any:
    """What a fetch gives for ``Echo`` to give ``value`` back."""
    return json.dumps(value).encode() if isinstance(value, list | dict) else value


def commit_all(run: Run, processor: Any, fetch: Any) -> None:
    """Process every shard of a run's plan."""
    engine = Engine(processor, threads=2)
    for shard in planned_shards(run):
        process_shard(shard.shard_id, read_shard(shard), engine, run, fetch)


def make_features(
    url: str,
    image_ids: Sequence[str],
    shape: tuple[int, ...] = (2, 2, 3),
    seed: int = 0,
    failing: Sequence[str] = (),
    **options: Any,
) -> Store:
    """A features store of random float16 grids (``pooled`` for a shape of one dimension)."""
    random = np.random.default_rng(seed)
    items: dict[str, Any] = {name: random.random(shape).astype(np.float16) for name in image_ids}
    items.update((name, ImageError("decode", "decode", "made to fail")) for name in failing)
    field = arrow.grid_field("grid" if len(shape) == 3 else "pooled", shape)
    return make_store(url, "features", field, items, **options)


def make_captions(
    url: str, captions: Mapping[str, str], keep_attention: bool = False, cells: int = 4, **options: Any
) -> Store:
    """A captions store with one caption an image; attention, if any, looks at one cell after the other."""
    items = {name: [_caption(text, keep_attention, cells)] for name, text in captions.items()}
    return make_store(url, "captions", arrow.captions_field(keep_attention), items, **options)


def make_answers(
    url: str, answers: Mapping[str, Any], prompts: Mapping[str, Mapping[str, Any]], **options: Any
) -> Store:
    """A store of an endpoint's answers: for each image, its texts by the prompt's column, or an ImageError."""
    spec = EndpointSpec("tiny", prompts)
    first, *more = asked = prompts_of(spec)
    items = {
        name: given
        if isinstance(given, ImageError)
        else {prompt.column: [answer(text, prompt) for text in given[prompt.column]] for prompt in asked}
        for name, given in answers.items()
    }
    fields = [prompt.field for prompt in more]
    return make_store(url, "captions", first.field, items, spec_of(spec), more=fields, **options)


def answer(text: str, prompt: Prompt) -> dict[str, Any]:
    """One answer as it is stored."""
    value = {} if prompt.schema is None else {"value": parsed(text, prompt.schema)}
    tokens = {"tokens_in": 100, "tokens_out": len(text.split())}
    return {"text": text, **value, "finish_reason": "stop", **tokens, "model": "tiny-1"}


def _caption(text: str, keep_attention: bool, cells: int) -> dict[str, Any]:
    tokens = text.split()
    caption: dict[str, Any] = {"text": text, "logprob": -float(len(tokens)), "tokens": tokens}
    if keep_attention:
        caption["attention"] = [np.eye(cells)[at % cells].tolist() for at in range(len(tokens))]
    return caption
