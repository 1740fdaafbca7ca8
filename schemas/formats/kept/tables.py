"""Files of ``columns/``: the kept columns of a shard's index rows, typed, with the text that they were made of."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.formats.kept.kinds import BOOLEANS, DIGITS, is_bytes, is_parsed, is_span, is_text
from captionbeam.schemas.formats.kept.values import columns_hash, json_text, unpacked

VALUES, HASH, TEXT, EXIF = "columns", "columns_hash", "columns_text", "exif"
ROW = (
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("failed", pa.bool_(), nullable=False),
    pa.field(HASH, pa.string(), nullable=False),
    pa.field(TEXT, pa.string(), nullable=False),
)


def struct_of(texts: Sequence[str], schema: pa.Schema) -> pa.StructArray:
    """Returns the values of several images as a struct of the columns in ``schema``.

    Raises SystemicError for a value that does not fit its column's type.
    """
    rows = [unpacked(text) for text in texts]
    arrays = [_array([row.get(field.name) for row in rows], field) for field in schema]
    return _struct(arrays, schema, len(texts))


def table_of(images: Iterable[tuple[str, bool, str]], schema: pa.Schema) -> pa.Table:
    """Returns a file of ``columns/`` for ``(image_id, failed, text)`` of a shard's index rows, in their order."""
    rows = list(images)
    ids, failed, texts = (list(part) for part in zip(*rows, strict=True)) if rows else ([], [], [])
    values = struct_of(texts, schema)
    arrays = [
        pa.array(ids, pa.string()),
        pa.array(failed, pa.bool_()),
        pa.array(map(columns_hash, texts), pa.string()),
        pa.array(texts, pa.string()),
    ]
    return pa.table([*arrays, values], pa.schema([*ROW, pa.field(VALUES, values.type, nullable=False)]))


def with_exif(table: pa.Table, values: pa.StructArray | pa.ChunkedArray) -> pa.Table:
    """Returns a file of ``columns/`` with what each image file says of itself.

    Without kept columns it has no struct of them, as Parquet has no empty structs.
    """
    table = table.append_column(pa.field(EXIF, values.type, nullable=False), values)
    return table if table.schema.field(VALUES).type.num_fields else table.drop_columns([VALUES])


def values_in(table: pa.Table, schema: pa.Schema) -> pa.StructArray:
    """Returns the kept columns of a file of ``columns/`` with the names and types of ``schema``.

    They are the file's own, or made again from its rows' text where it has other types. Raises SystemicError for a
    value that does not fit.
    """
    there = _arrays(table, VALUES)
    other = [field for field in schema if field.name not in there or there[field.name].type != field.type]
    if other:
        made = struct_of(table.column(TEXT).to_pylist(), pa.schema(other))
        there |= dict(zip((field.name for field in other), made.flatten(), strict=True))
    return _struct([there[field.name] for field in schema], schema, table.num_rows)


def kinds_in(table: pa.Table) -> pa.Schema:
    """Returns names and types of the kept columns in a file of ``columns/``; null for one without any value."""
    kinds = (
        (name, pa.null() if column.null_count == len(column) else column.type)
        for name, column in _arrays(table, VALUES).items()
    )
    return pa.schema(list(kinds))


def exif_in(table: pa.Table, schema: pa.Schema) -> pa.StructArray:
    """Returns what image files say of themselves in a file of ``columns/``; columns that it lacks are null."""
    there = _arrays(table, EXIF)
    found = ((there.get(field.name), field.type) for field in schema)
    arrays = [
        pa.nulls(table.num_rows, kind) if array is None or array.type != kind else array
        for array, kind in found
    ]
    return _struct(arrays, schema, table.num_rows)


def shown_names(schema: pa.Schema, taken: Iterable[str]) -> dict[str, str]:
    """Returns the names under which readers get the columns: ``input_NAME`` for those of the store's own columns.

    ``taken``: the store's own names. Upper and lower case are alike, as they are to SQL.
    """
    own, shown = {name.casefold() for name in taken}, dict[str, str]()
    for name in schema.names:
        free = name
        while free.casefold() in own:
            free = f"input_{free}"
        own.add(free.casefold())
        shown[name] = free
    return shown


def _arrays(table: pa.Table, name: str) -> dict[str, pa.Array]:
    """Returns the fields of the struct ``name``, of which a file may have none."""
    if name not in table.column_names:
        return {}
    values = table.column(name).combine_chunks()
    return {field.name: values.field(number) for number, field in enumerate(values.type)}


def _struct(arrays: Sequence[pa.Array], schema: pa.Schema, rows: int) -> pa.StructArray:
    if not arrays:
        return pa.array([{}] * rows, pa.struct([]))
    return pa.StructArray.from_arrays(arrays, fields=list(schema))


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    convert = _converter(field.type)
    kept = [None if value is None else convert(value) for value in values]
    try:
        if pa.types.is_time(field.type):  # pyarrow parses none without a day
            days = pa.array([None if time is None else f"1970-01-01T{time}" for time in kept], pa.string())
            return days.cast(pa.timestamp(field.type.unit)).cast(field.type)
        if is_parsed(field.type):
            return pa.array(kept, pa.string()).cast(field.type)
        return pa.array(kept, field.type)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as err:
        raise SystemicError(
            f"kept column {field.name!r} has a value that is no {field.type}, the type of all its values in the "
            f"listing ({err}); expected its source not to change meanwhile: start the job again, or leave the column "
            "out of --keep-columns"
        ) from err


def _converter(kind: pa.DataType) -> Callable[[Any], Any]:
    """Returns the function that turns a value, or a cell, into what pyarrow takes for ``kind``."""
    if is_text(kind):
        return lambda value: value if isinstance(value, str) else json_text(value)
    if is_bytes(kind):
        return base64.b64decode
    if pa.types.is_boolean(kind):
        return lambda value: BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value
    if pa.types.is_floating(kind):
        return lambda value: _number(value, float)
    if is_span(kind):
        return lambda value: _count(value, kind.unit)
    if pa.types.is_integer(kind):
        return lambda value: _number(value, int) if isinstance(value, str) else value
    if is_parsed(kind):
        return str
    if pa.types.is_nested(kind):
        return lambda value: _fitted(value, kind)
    return lambda value: value


def _fitted(value: Any, kind: pa.DataType) -> Any:
    """Returns a nested value of JSON with floats where ``kind`` has them, as pyarrow refuses large integers there."""
    if isinstance(value, dict) and pa.types.is_struct(kind):
        return {field.name: _fitted(value.get(field.name), field.type) for field in kind}
    if isinstance(value, list) and pa.types.is_nested(kind):
        return [_fitted(one, kind.value_type) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and pa.types.is_floating(kind):
        return float(value)
    return value


def _count(value: str, unit: str) -> int:
    """Returns the number of ``unit`` in a duration such as ``1.5s``."""
    return int(Decimal(value.removesuffix("s")).scaleb(DIGITS[unit]))


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    try:
        return kind(value)
    except ValueError:  # pyarrow's error says more
        return value
