"""Rows of a store as tables for other tools: plain column types, and the matching BigQuery schema."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa

from captionbeam.capmodel.specs import complete_spec
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.store.reading import Store

_NAMES = {"string": "STRING", "int64": "INTEGER", "float": "FLOAT", "double": "FLOAT", "bool": "BOOLEAN"}
CAPTION_LINE = (
    pa.field("rank", pa.int64(), nullable=False),
    pa.field("caption", pa.string(), nullable=False),
    pa.field("logprob", pa.float32(), nullable=False),
)
WEIGHTS = pa.list_(pa.struct([pa.field("weights", pa.list_(pa.float32()))]))


def export_schema(store: Store, file_format: str) -> pa.Schema:
    """Returns the columns of an export as parquet, jsonl or csv.

    Features are float32. A grid is one flat list in C order, with its shape in the field's metadata. In csv, a pooled
    vector has one column per number. Captions are nested; in csv, each has its own line.
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
    if file_format == "csv":
        return pa.schema([*arrow.IDENTITY, *CAPTION_LINE])
    return pa.schema([*arrow.IDENTITY, _captions_field(_keeps_attention(store))])


def _keeps_attention(store: Store) -> bool:
    decode = complete_spec(store.spec).get("decode")
    if isinstance(decode, dict):
        return bool(decode.get("keep_attention"))
    first = next(store.scan(["captions"]), None)
    return first is not None and "attention" in [
        field.name for field in first.schema.field(0).type.value_type
    ]


def _captions_field(keep_attention: bool) -> pa.Field:
    """Returns the stored captions field with attention as records, because BigQuery has no nested lists."""
    parts = list(arrow.captions_field(False).type.value_type)
    if keep_attention:
        parts.append(pa.field("attention", WEIGHTS))
    return pa.field("captions", pa.list_(pa.struct(parts)), nullable=False)


def export_batch(batch: pa.RecordBatch, schema: pa.Schema, file_format: str) -> pa.RecordBatch:
    """Returns a batch of ``Store.scan`` with the columns of ``export_schema``."""
    value = batch.column(len(arrow.IDENTITY))
    if isinstance(value, pa.ExtensionArray):
        return _features(batch, value, schema, file_format)
    if file_format == "csv":
        return pa.RecordBatch.from_pylist(
            [line for row in batch.to_pylist() for line in _lines(row)], schema=schema
        )
    captions = value.to_pylist()
    for caption in (caption for several in captions for caption in several):
        if caption.get("attention") is not None:
            caption["attention"] = [{"weights": weights} for weights in caption["attention"]]
    arrays = [*batch.columns[: len(arrow.IDENTITY)], pa.array(captions, schema.field("captions").type)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _features(
    batch: pa.RecordBatch, value: pa.ExtensionArray, schema: pa.Schema, file_format: str
) -> pa.RecordBatch:
    numbers = value.to_numpy_ndarray().astype("float32").reshape(len(value), -1)
    if file_format == "csv":
        columns = [pa.array(numbers[:, at]) for at in range(numbers.shape[1])]
    else:
        columns = [pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), numbers.shape[1])]
    return pa.RecordBatch.from_arrays([*batch.columns[: len(arrow.IDENTITY)], *columns], schema=schema)


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    identity = {name: row[name] for name in arrow.IDENTITY_NAMES}
    return [
        {**identity, "rank": rank, "caption": caption["text"], "logprob": caption["logprob"]}
        for rank, caption in enumerate(row["captions"], 1)
    ]


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
