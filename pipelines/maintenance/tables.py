"""Rows of a store as tables for other tools: plain column types, and the matching BigQuery schema."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.datafile import open_data
from captionbeam.schemas.formats.kept import plain_values, shown_names
from captionbeam.schemas.store.reading import Store

# Files in the folder of an export: its format and columns, and BigQuery's schema. Readers of whole folders of Parquet,
# such as pandas and Spark, pass over names with an underscore.
RECORD, SCHEMA = "_export.json", "_schema.json"
_BIGQUERY: list[tuple[str, Callable[[pa.DataType], bool]]] = [
    ("STRING", pa.types.is_string),
    ("INTEGER", pa.types.is_integer),
    ("INTEGER", pa.types.is_duration),
    ("FLOAT", pa.types.is_floating),
    ("BOOLEAN", pa.types.is_boolean),
    ("BYTES", pa.types.is_binary),
    ("DATE", pa.types.is_date),
    ("TIME", pa.types.is_time),
    ("DATETIME", lambda kind: pa.types.is_timestamp(kind) and kind.tz is None),
    ("TIMESTAMP", pa.types.is_timestamp),
    (
        "NUMERIC",
        lambda kind: pa.types.is_decimal(kind) and kind.scale <= 9 and kind.precision <= 29 + kind.scale,
    ),
    ("BIGNUMERIC", pa.types.is_decimal),
]
PROMPT = pa.field("prompt", pa.string(), nullable=False)


def export_schema(store: Store, file_format: str) -> pa.Schema:
    """Returns the columns of an export as parquet, jsonl or csv.

    Features are float32. A grid is one flat list in C order, with its shape in the field's metadata. In csv, a pooled
    vector has one column per number. Captions and answers are nested, with their typed values; enums are strings, and
    an inner list of a list is a record with one field, because BigQuery has no nested lists. In csv, each caption has
    its own line: JSON as text, the prompt's name if there are several prompts, an empty ``logprob`` if there is none,
    and the ``score`` if there are any. The columns kept from the input come last. In csv, nested ones are JSON text; in
    csv and jsonl, durations are text (``1.5s``). What BigQuery has no type for is in one that holds the same values:
    microseconds instead of nanoseconds, or text if a value has a part of one; decimals instead of uint64; text instead
    of decimals of more than 38 digits before or after the point.
    """
    own = [*arrow.IDENTITY, *_value_fields(store, file_format)]
    shown = shown_names(store.kept, [field.name for field in own])
    finer = _with_parts_of_micros(store)
    as_text = {"csv": (pa.types.is_nested, pa.types.is_duration), "jsonl": (pa.types.is_duration,)}
    kept = [
        pa.field(
            shown[field.name],
            pa.string()
            if field.name in finer or any(test(field.type) for test in as_text.get(file_format, ()))
            else _loadable(field.type),
        )
        for field in store.kept
    ]
    return pa.schema([*own, *map(_plain_field, kept)])


def _with_parts_of_micros(store: Store) -> set[str]:
    """Returns the kept columns of times in nanoseconds with a value that microseconds do not hold."""
    names = [field.name for field in store.kept if _has_nanos(field.type)]
    found = set[str]()
    for batch in store.scan(names) if names else ():
        for name in names:
            nanos = batch.column(name).cast(pa.int64()).drop_null()
            if not nanos.equals(pc.multiply(pc.divide(nanos, 1000), 1000)):
                found.add(name)
    return found


def _has_nanos(kind: pa.DataType) -> bool:
    return bool((pa.types.is_timestamp(kind) or pa.types.is_time64(kind)) and kind.unit == "ns")


def _loadable(kind: pa.DataType) -> pa.DataType:
    """Returns the type that BigQuery loads for a kept column of type ``kind``; see ``export_schema``."""
    if _has_nanos(kind):
        return pa.timestamp("us", kind.tz) if pa.types.is_timestamp(kind) else pa.time64("us")
    if pa.types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if pa.types.is_decimal(kind) and not (0 <= kind.scale <= 38 and kind.precision - kind.scale <= 38):
        return pa.string()
    return kind


def _as_loadable(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Returns a kept column, no nested one, as the type ``kind`` of ``export_schema``."""
    if column.type == kind or pa.types.is_nested(column.type):
        return column
    if pa.types.is_string(kind):
        return pa.array(plain_values(_in_utc(column)), kind)
    return _in_utc(column).cast(kind)


def _in_utc(column: pa.Array) -> pa.Array:
    """Returns times of another zone in UTC: their text ends with Z, which every reader takes."""
    is_zoned = pa.types.is_timestamp(column.type) and column.type.tz
    return column.cast(pa.timestamp(column.type.unit, "UTC")) if is_zoned else column


def _value_fields(store: Store, file_format: str) -> list[pa.Field]:
    if store.shape and file_format == "csv":
        return [
            pa.field(f"{store.column}_{at}", pa.float32(), nullable=False) for at in range(store.shape[0])
        ]
    if store.shape:
        metadata = {arrow.SHAPE_KEY: json.dumps(list(store.shape))}
        flat = pa.list_(pa.float32(), math.prod(store.shape))
        return [pa.field(store.column, flat, nullable=False, metadata=metadata)]
    stored = _stored_fields(store)
    return [*_line_fields(stored)] if file_format == "csv" else [*map(_plain_field, stored)]


def _stored_fields(store: Store) -> list[pa.Field]:
    """Returns the columns of captions as in the data files; if there are no rows, such as hold for all captions."""
    url = next((store.data_url(shard["shard"]) for shard in store.shards if shard["rows"]), None)
    if url is None:
        has_prompts = "prompts" in store.spec
        fields = [
            arrow.answers_field(name, "") if has_prompts else arrow.captions_field() for name in store.columns
        ]
        return list(arrow.with_scores(pa.schema(fields))) if "scorer" in store.spec else fields
    with closing(open_data(url)) as data:
        return [data.schema.field(name) for name in store.columns]


def _line_fields(stored: list[pa.Field]) -> Iterator[pa.Field]:
    if len(stored) > 1:
        yield PROMPT
    yield pa.field("rank", pa.int64(), nullable=False)
    yield pa.field("caption", pa.string(), nullable=False)
    yield pa.field("logprob", pa.float32(), nullable=any(not arrow.has_logprobs(field) for field in stored))
    if any(arrow.has_scores(field) for field in stored):
        yield pa.field("score", pa.float32())


def _plain_field(field: pa.Field) -> pa.Field:
    inner = "weights" if field.name == "attention" else "items"
    return pa.field(field.name, _plain_type(field.type, inner), nullable=field.nullable)


def _plain_type(kind: pa.DataType, inner: str = "items") -> pa.DataType:
    """Returns ``kind`` without enums; lists in lists are records of one field, ``inner``, and uint64 is text."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if _is_list(kind):
        item = _plain_type(kind.value_type)
        return pa.list_(pa.struct([pa.field(inner, item)]) if pa.types.is_list(item) else item)
    as_text = (pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null, pa.types.is_uint64)
    return pa.string() if any(test(kind) for test in as_text) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _plain(value: Any, kind: pa.DataType) -> Any:
    """Returns a value of a stored type as one of its plain type ``kind``; a null list is empty, as in BigQuery."""
    if pa.types.is_list(kind):
        return [_plain(item, kind.value_type) for item in value or ()]
    if pa.types.is_string(kind) and isinstance(value, int):
        return str(value)
    if value is None or not pa.types.is_nested(kind):
        return value
    if isinstance(value, list):  # in a list
        return {kind.field(0).name: _plain(value, kind.field(0).type)}
    return {field.name: _plain(value[field.name], field.type) for field in kind}


def export_batch(batch: pa.RecordBatch, store: Store, schema: pa.Schema, file_format: str) -> pa.RecordBatch:
    """Returns a batch of ``Store.scan`` with the columns of ``export_schema``.

    In jsonl and csv, the values of kept columns are those of JSON's types.
    """
    first, last = len(arrow.IDENTITY), batch.num_columns - len(store.kept)
    kept = [
        _kept_values(batch.column(at), field.type, file_format)
        for at, field in enumerate(list(schema)[len(schema) - len(store.kept) :], last)
    ]
    identity, values = batch.columns[:first], batch.columns[first:last]
    if store.shape:
        columns = [*identity, *_features(values[0], file_format), *kept]
    elif file_format == "csv":
        return _lines(batch.select(range(last)), kept, schema)
    else:
        fields = list(schema)[first:last]
        plain = [_plain_array(values, field.type) for values, field in zip(values, fields, strict=True)]
        columns = [*identity, *plain, *kept]
    if file_format == "parquet":
        return pa.RecordBatch.from_arrays(columns, schema=schema)
    return pa.RecordBatch.from_arrays(columns, schema.names)


def with_json_values(batch: pa.RecordBatch, names: Collection[str]) -> pa.RecordBatch:
    """Returns a batch of ``Store.scan`` whose kept columns, ``names``, have values of JSON's types."""
    arrays = [
        json_array(column) if name in names else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, batch.schema.names)


def json_array(column: pa.Array) -> pa.Array:
    """Returns a kept column with values of JSON's types.

    Dates, times (in UTC if they have a zone), durations (``1.5s``), decimals and bytes (base64) are text; NaN and
    infinity are null.
    """
    column = _in_utc(column)
    kind = column.type
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
    if pa.types.is_nested(kind):
        return pa.array(map(_finite, column.to_pylist()), kind)
    if pa.types.is_time(kind):
        return column.cast(pa.string())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column
    return pa.array(plain_values(column))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _kept_values(column: pa.Array, kind: pa.DataType, file_format: str) -> pa.Array:
    is_nested = pa.types.is_nested(column.type)
    if file_format == "parquet":
        return _plain_array(column, kind) if is_nested else _as_loadable(column, kind)
    values = json_array(_as_loadable(column, kind))
    if file_format == "jsonl":
        return _plain_array(values, kind) if is_nested else values
    if is_nested:
        texts = [None if one is None else json.dumps(one, ensure_ascii=False) for one in values.to_pylist()]
        return pa.array(texts, pa.string())
    return values.cast(pa.string()) if pa.types.is_boolean(kind) else values  # true rather than True


def _plain_array(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return pa.array([_plain(one, kind) for one in column.to_pylist()], kind)


def _features(values: pa.ExtensionArray, file_format: str) -> list[pa.Array]:
    numbers = values.to_numpy_ndarray().astype("float32").reshape(len(values), -1)
    if file_format == "csv":
        return [pa.array(numbers[:, at]) for at in range(numbers.shape[1])]
    return [pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), numbers.shape[1])]


def _lines(batch: pa.RecordBatch, kept: list[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """Returns a line for each caption. ``kept``: the kept columns, with a value for each row of ``batch``."""
    lines, rows = [], []
    for at, row in enumerate(batch.to_pylist()):
        identity = {name: row[name] for name in arrow.IDENTITY_NAMES}
        for column in batch.schema.names[len(arrow.IDENTITY) :]:
            for rank, caption in enumerate(row[column], 1):
                numbers = {name: caption.get(name) for name in ("logprob", "score")}
                about = {"rank": rank, "caption": caption["text"], **numbers}
                lines.append({**identity, "prompt": column, **about})
                rows.append(at)
    own = pa.schema(list(schema)[: len(schema) - len(kept)])
    repeated = [values.take(pa.array(rows, pa.int64())) for values in kept]
    columns = [*pa.RecordBatch.from_pylist(lines, schema=own).columns, *repeated]
    return pa.RecordBatch.from_arrays(columns, schema.names)


def bigquery_schema(schema: pa.Schema) -> list[dict[str, Any]]:
    """Returns the fields in the format of ``bq load --schema``."""
    return [_bigquery_field(field) for field in schema]


def _bigquery_field(field: pa.Field) -> dict[str, Any]:
    kind, mode = field.type, "NULLABLE" if field.nullable else "REQUIRED"
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, mode = kind.value_type, "REPEATED"
    if pa.types.is_struct(kind):
        return {"name": field.name, "type": "RECORD", "mode": mode, "fields": [*map(_bigquery_field, kind)]}
    name = next(name for name, is_one in _BIGQUERY if is_one(kind))
    return {"name": field.name, "type": name, "mode": mode}
