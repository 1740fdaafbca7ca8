"""Rows of a store as tables for other tools: plain column types, and the matching BigQuery schema."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa

from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.datafile import open_data
from captionbeam.schemas.store.reading import Store

RECORD = "export.json"  # in the folder of an export, with its format and columns
_NAMES = {
    "string": "STRING",
    "int32": "INTEGER",
    "int64": "INTEGER",
    "float": "FLOAT",
    "double": "FLOAT",
    "bool": "BOOLEAN",
}
PROMPT = pa.field("prompt", pa.string(), nullable=False)


def export_schema(store: Store, file_format: str) -> pa.Schema:
    """Returns the columns of an export as parquet, jsonl or csv.

    Features are float32. A grid is one flat list in C order, with its shape in the field's metadata. In csv, a pooled
    vector has one column per number. Captions and answers are nested, with their typed values; enums are strings, and
    an inner list of a list is a record with one field, because BigQuery has no nested lists. In csv, each caption has
    its own line: JSON as text, the prompt's name if there are several prompts, an empty ``logprob`` if there is none.
    """
    if store.shape and file_format == "csv":
        numbers = [
            pa.field(f"{store.column}_{at}", pa.float32(), nullable=False) for at in range(store.shape[0])
        ]
        return pa.schema([*arrow.IDENTITY, *numbers])
    if store.shape:
        metadata = {arrow.SHAPE_KEY: json.dumps(list(store.shape))}
        flat = pa.list_(pa.float32(), math.prod(store.shape))
        return pa.schema([*arrow.IDENTITY, pa.field(store.column, flat, nullable=False, metadata=metadata)])
    stored = _stored_fields(store)
    if file_format == "csv":
        return pa.schema([*arrow.IDENTITY, *_line_fields(stored)])
    return pa.schema([*arrow.IDENTITY, *(_plain_field(field) for field in stored)])


def _stored_fields(store: Store) -> list[pa.Field]:
    """Returns the columns of captions as in the data files; if there are no rows, such as hold for all captions."""
    url = next((store.data_url(shard["shard"]) for shard in store.shards if shard["rows"]), None)
    if url is None:
        has_prompts = "prompts" in store.spec
        return [
            arrow.answers_field(name, "") if has_prompts else arrow.captions_field() for name in store.columns
        ]
    with closing(open_data(url)) as data:
        return [data.schema.field(name) for name in store.columns]


def _line_fields(stored: list[pa.Field]) -> Iterator[pa.Field]:
    if len(stored) > 1:
        yield PROMPT
    yield pa.field("rank", pa.int64(), nullable=False)
    yield pa.field("caption", pa.string(), nullable=False)
    yield pa.field("logprob", pa.float32(), nullable=any(not arrow.has_logprobs(field) for field in stored))


def _plain_field(field: pa.Field) -> pa.Field:
    inner = "weights" if field.name == "attention" else "items"
    return pa.field(field.name, _plain_type(field.type, inner), nullable=field.nullable)


def _plain_type(kind: pa.DataType, inner: str = "items") -> pa.DataType:
    """Returns ``kind`` without enums; lists in lists are records of one field, ``inner``."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if not pa.types.is_list(kind):
        return kind
    item = _plain_type(kind.value_type)
    return pa.list_(pa.struct([pa.field(inner, item)]) if pa.types.is_list(item) else item)


def _plain(value: Any, kind: pa.DataType) -> Any:
    """Returns a value of a stored type as one of its plain type ``kind``; a null list is empty, as in BigQuery."""
    if pa.types.is_list(kind):
        return [_plain(item, kind.value_type) for item in value or ()]
    if value is None or pa.types.is_primitive(kind) or pa.types.is_string(kind):
        return value
    if isinstance(value, list):  # in a list
        return {kind.field(0).name: _plain(value, kind.field(0).type)}
    return {field.name: _plain(value[field.name], field.type) for field in kind}


def export_batch(batch: pa.RecordBatch, schema: pa.Schema, file_format: str) -> pa.RecordBatch:
    """Returns a batch of ``Store.scan`` with the columns of ``export_schema``."""
    value = batch.column(len(arrow.IDENTITY))
    if isinstance(value, pa.ExtensionArray):
        return _features(batch, value, schema, file_format)
    if file_format == "csv":
        names = batch.schema.names[len(arrow.IDENTITY) :]
        lines = [line for row in batch.to_pylist() for line in _lines(row, names)]
        return pa.RecordBatch.from_pylist(lines, schema=schema)
    plain = [
        pa.array([_plain(one, field.type) for one in batch.column(field.name).to_pylist()], field.type)
        for field in list(schema)[len(arrow.IDENTITY) :]
    ]
    return pa.RecordBatch.from_arrays([*batch.columns[: len(arrow.IDENTITY)], *plain], schema=schema)


def _features(
    batch: pa.RecordBatch, value: pa.ExtensionArray, schema: pa.Schema, file_format: str
) -> pa.RecordBatch:
    numbers = value.to_numpy_ndarray().astype("float32").reshape(len(value), -1)
    if file_format == "csv":
        columns = [pa.array(numbers[:, at]) for at in range(numbers.shape[1])]
    else:
        columns = [pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), numbers.shape[1])]
    return pa.RecordBatch.from_arrays([*batch.columns[: len(arrow.IDENTITY)], *columns], schema=schema)


def _lines(row: dict[str, Any], columns: list[str]) -> Iterator[dict[str, Any]]:
    identity = {name: row[name] for name in arrow.IDENTITY_NAMES}
    for column in columns:
        for rank, caption in enumerate(row[column], 1):
            about = {"rank": rank, "caption": caption["text"], "logprob": caption.get("logprob")}
            yield {**identity, "prompt": column, **about}


def bigquery_schema(schema: pa.Schema) -> list[dict[str, Any]]:
    """Returns the fields in the format of ``bq load --schema``."""
    return [_bigquery_field(field) for field in schema]


def _bigquery_field(field: pa.Field) -> dict[str, Any]:
    kind, mode = field.type, "NULLABLE" if field.nullable else "REQUIRED"
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, mode = kind.value_type, "REPEATED"
    if pa.types.is_struct(kind):
        return {"name": field.name, "type": "RECORD", "mode": mode, "fields": [*map(_bigquery_field, kind)]}
    return {"name": field.name, "type": _NAMES[str(kind)], "mode": mode}
