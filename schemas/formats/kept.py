"""Kept columns: what stood beside the images in the input, carried along with their rows.

An image's values travel as text, in ``ImageRef.columns``: a JSON object with sorted names and without nulls. The cells
of CSV have no types; an object of cells has a mark before it, and its types are inferred from all cells of the listing.
A store keeps the values as one typed struct for each row, in ``columns/`` (``table_of``). Beside it stands the text of
those values that prompts use (``used_values``), which decide answers. What the image file says of itself
(``--keep-exif``) is a struct of its own, which does not depend on the listing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from captionbeam.schemas.errors import SystemicError

VALUES, HASH, USED, EXIF = "columns", "columns_hash", "used", "exif"
MOST_BYTES = 4096  # of one image's values as text
CELLS = "="  # before an object of CSV cells
ROW = (
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("failed", pa.bool_(), nullable=False),
    pa.field(HASH, pa.string(), nullable=False),
)
_INTEGER = re.compile(r"-?[1-9]\d*|0")  # others, such as 007, are names rather than numbers, as is 12E4
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]\d+)?")
_MOST_DIGITS = 17  # of a decimal number that a double gives back
_SURROGATE = re.compile("[\ud800-\udfff]")  # alone it is no text; JSON has escapes for it
_UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_BOOLEANS = {"true": True, "false": False}


def packed(values: Mapping[str, Any]) -> str:
    """Returns typed values (of JSON's types, or from ``plain_values``) as text; '' if there are none."""
    there = {name: value for name, value in values.items() if value is not None}
    return _json_text(there) if there else ""


def packed_cells(cells: Mapping[str, str | None]) -> str:
    """Returns cells of CSV as text; '' if all are empty."""
    text = packed({name: cell for name, cell in cells.items() if cell})
    return CELLS + text if text else ""


def unpacked(text: str) -> dict[str, Any]:
    """Returns the values of ``packed``, or the cells of ``packed_cells``."""
    values: dict[str, Any] = json.loads(text.removeprefix(CELLS)) if text else {}
    return values


def columns_hash(text: str) -> str:
    """Returns 16 hexadecimal digits that change if a value does; '' for no values."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest() if text else ""


def used_values(text: str, names: Collection[str]) -> str:
    """Returns an image's values in the columns ``names``, each as text, as an object like that of ``packed``.

    Text stands as it is, also that of CSV's cells; other values are JSON. Null, NaN and empty text are left out.
    """
    if not text or not names:
        return ""
    there = ((name, value) for name, value in unpacked(text).items() if name in names)
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in there
        if not (isinstance(value, float) and math.isnan(value))
    }
    return packed({name: value for name, value in texts.items() if value})


def lacks_value(text: str, names: Collection[str]) -> bool:
    """Returns whether an image has no value, or only blanks, in one of the columns ``names``."""
    values: dict[str, str] = unpacked(used_values(text, names))
    return any(not values.get(name, "").strip() for name in names)


def kept_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type in which a column of type ``kind`` is kept.

    Nested types with times, decimals or bytes inside are kept as JSON text, and dictionaries as their values.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return kept_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return kept_type(kind.value_type)
    if _is_text(kind) or pa.types.is_null(kind):
        return pa.string() if _is_text(kind) else kind
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_nested(kind):
        return kind if _is_json(kind) else pa.string()
    return kind


def plain_values(column: pa.Array) -> list[Any]:
    """Returns a column's values for ``packed``: of JSON's types.

    Dates, decimals and bytes (base64) are text, as are times of day and durations (``1500ms``).
    """
    if isinstance(column, pa.ExtensionArray):
        return plain_values(column.storage)
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain_values(column.dictionary_decode())
    if pa.types.is_nested(kind) and not _is_json(kind):
        return [None if value is None else _json_text(value) for value in column.to_pylist()]
    if _is_bytes(kind):
        return [None if value is None else base64.b64encode(value).decode() for value in column.to_pylist()]
    if _is_span(kind):
        counts = column.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64()).to_pylist()
        return [None if count is None else f"{count}{kind.unit}" for count in counts]
    if _is_parsed(kind):
        return list(column.cast(pa.string()).to_pylist())
    if pa.types.is_float32(kind):  # 0.1 rather than 0.10000000149011612
        return [None if text is None else float(text) for text in column.cast(pa.string()).to_pylist()]
    return list(column.to_pylist())


class Types:
    """The types of kept columns as far as a listing has seen them, by name."""

    def __init__(self, schema: pa.Schema | None = None) -> None:
        self._types: dict[str, pa.DataType] = {}
        if schema is not None:
            self.add(schema)

    def add(self, schema: pa.Schema) -> None:
        """Adds columns of known types, such as those of a Parquet file or of another container."""
        for field in schema:
            self._see(field.name, field.type)

    def see(self, text: str) -> None:
        """Adds one image's values."""
        infer = _cell_type if text.startswith(CELLS) else _value_type
        for name, value in unpacked(text).items():
            self._see(name, infer(value))

    def schema(self) -> pa.Schema:
        """Returns the columns, sorted by name. A column without any value so far has the type null."""
        return pa.schema(sorted(self._types.items()))

    def _see(self, name: str, kind: pa.DataType) -> None:
        known = self._types.get(name)
        if known != kind:
            self._types[name] = kind if known is None else _merged(known, kind)


def schema_text(schema: pa.Schema) -> str:
    """Returns a schema as text for JSON records: Arrow's IPC message in base64; '' without columns."""
    return base64.b64encode(schema.serialize()).decode() if len(schema) else ""


def schema_of(text: str) -> pa.Schema:
    """Returns the schema of ``schema_text``."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))) if text else pa.schema([])


def merged(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Returns the columns of both, with types that hold the values of both."""
    types = Types(one)
    types.add(other)
    return types.schema()


def without_nulls(schema: pa.Schema) -> pa.Schema:
    """Returns the schema in which columns are written and read: those without any value so far are text."""
    types = [pa.string() if pa.types.is_null(field.type) else field.type for field in schema]
    return pa.schema([(name, kind) for name, kind in zip(schema.names, types, strict=True)])


def struct_of(texts: Sequence[str], schema: pa.Schema) -> pa.StructArray:
    """Returns the values of several images as a struct of the columns in ``schema``.

    Raises SystemicError for a value that does not fit its column's type.
    """
    rows = [(unpacked(text), text.startswith(CELLS)) for text in texts]
    arrays = [_array([(row.get(field.name), is_cell) for row, is_cell in rows], field) for field in schema]
    if not arrays:
        return pa.array([{}] * len(texts), pa.struct([]))
    return pa.StructArray.from_arrays(arrays, fields=list(schema))


def table_of(
    images: Iterable[tuple[str, bool, str]], schema: pa.Schema, used: Collection[str] = ()
) -> pa.Table:
    """Returns a file of ``columns/`` for ``(image_id, failed, text)`` of a shard's index rows, in their order.

    ``used``: the columns that prompts use.
    """
    rows = list(images)
    ids, failed, texts = (list(part) for part in zip(*rows, strict=True)) if rows else ([], [], [])
    values = struct_of(texts, schema)
    arrays = [
        pa.array(ids, pa.string()),
        pa.array(failed, pa.bool_()),
        pa.array(map(columns_hash, texts), pa.string()),
    ]
    table = pa.table([*arrays, values], pa.schema([*ROW, pa.field(VALUES, values.type, nullable=False)]))
    return with_used(table, [used_values(text, used) for text in texts]) if used else table


def with_used(table: pa.Table, used: Sequence[str]) -> pa.Table:
    """Returns a file of ``columns/`` with the values that prompts use of each row, as text (``used_values``)."""
    return table.append_column(pa.field(USED, pa.string(), nullable=False), pa.array(used, pa.string()))


def used_in(table: pa.Table) -> list[str]:
    """Returns the values that prompts use of each row of a file of ``columns/``; '' where none does."""
    if USED not in table.column_names:
        return [""] * table.num_rows
    texts: list[str] = table.column(USED).to_pylist()
    return texts


def with_exif(table: pa.Table, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Returns a file of ``columns/`` with what each image file says of itself: values of ``schema``, or of some of it.

    Without kept columns it has no struct of them, as Parquet has no empty structs.
    """
    values = pa.array(rows, pa.struct(list(schema)))
    table = table.append_column(pa.field(EXIF, values.type, nullable=False), values)
    return table if table.schema.field(VALUES).type.num_fields else table.drop_columns([VALUES])


def struct_in(table: pa.Table, name: str) -> pa.StructArray:
    """Returns the struct VALUES or EXIF of a file of ``columns/``, without fields if it has none."""
    if name not in table.column_names:
        return pa.array([{}] * table.num_rows, pa.struct([]))
    return table.column(name).combine_chunks()


def cast_struct(values: pa.StructArray, schema: pa.Schema) -> list[pa.Array]:
    """Returns the columns of ``schema`` from a struct of an earlier or narrower schema; absent ones are null."""
    there = {field.name: values.field(number) for number, field in enumerate(values.type)}
    return [
        _cast(there[field.name], field.type) if field.name in there else pa.nulls(len(values), field.type)
        for field in schema
    ]


def texts_of(values: pa.StructArray, schema: pa.Schema | None = None) -> list[str]:
    """Returns each row of a struct as text, as from ``packed``; if a ``schema`` is given, its columns and types."""
    schema = pa.schema(list(values.type)) if schema is None else schema
    arrays = zip(schema.names, cast_struct(values, schema), strict=True)
    columns = {name: plain_values(array) for name, array in arrays}
    return [packed({name: column[row] for name, column in columns.items()}) for row in range(len(values))]


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


def largest(text: str) -> tuple[str, int]:
    """Returns the column with the longest value, and that value's length in bytes as text."""
    sizes = {name: len(packed({name: value}).encode()) for name, value in unpacked(text).items()}
    name = max(sizes, key=lambda one: sizes[one])
    return name, sizes[name]


def _json_text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
    return _SURROGATE.sub("\ufffd", text)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def _is_span(kind: pa.DataType) -> bool:
    return bool(pa.types.is_time(kind) or pa.types.is_duration(kind))


def _is_parsed(kind: pa.DataType) -> bool:
    """Returns whether pyarrow parses values of ``kind`` from the text that it makes of them."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_decimal(kind))


def _is_json(kind: pa.DataType) -> bool:
    """Returns whether JSON has the values of ``kind``."""
    if pa.types.is_struct(kind):  # Parquet has no struct without fields
        return kind.num_fields > 0 and all(_is_json(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_json(kind.value_type)
    tests = (_is_text, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    return any(test(kind) for test in tests)


def _cell_type(cell: str) -> pa.DataType:
    if _INTEGER.fullmatch(cell):
        return pa.int64() if -(2**63) <= int(cell) < 2**63 else pa.string()
    if _NUMBER.fullmatch(cell):
        digits = len(cell.lower().partition("e")[0].lstrip("-0.").replace(".", ""))
        return pa.float64() if digits <= _MOST_DIGITS and math.isfinite(float(cell)) else pa.string()
    return pa.bool_() if cell.lower() in _BOOLEANS else pa.string()


def _value_type(value: Any) -> pa.DataType:
    if isinstance(value, str):
        return pa.string()
    try:
        return kept_type(pa.scalar(value).type)
    except (pa.ArrowException, OverflowError):
        return pa.string()  # JSON text


def _merged(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    if _is_text(one) or _is_text(other):
        return pa.string()
    if pa.types.is_uint64(one) != pa.types.is_uint64(other) and _are_integers(one, other):
        return pa.string()  # no type of numbers holds both
    if pa.types.is_decimal(one) != pa.types.is_decimal(other) and (
        pa.types.is_integer(one) or pa.types.is_integer(other)
    ):
        scale = one.scale if pa.types.is_decimal(one) else other.scale
        return pa.decimal128(38, scale) if scale <= 18 else pa.string()
    try:
        both = [pa.schema([("", one)]), pa.schema([("", other)])]
        return pa.unify_schemas(both, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return pa.string()


def _are_integers(*kinds: pa.DataType) -> bool:
    return all(pa.types.is_integer(kind) for kind in kinds)


def _array(values: Sequence[tuple[Any, bool]], field: pa.Field) -> pa.Array:
    convert = _converter(field.type)
    kept = [None if value is None else convert(value, is_cell) for value, is_cell in values]
    try:
        if _is_parsed(field.type):
            return pa.array(kept, pa.string()).cast(field.type)
        return pa.array(kept, field.type)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as err:
        raise SystemicError(
            f"kept column {field.name!r} has a value that is no {field.type}, the type of all its values in the "
            f"listing ({err}); expected its source not to change meanwhile: start the job again, or leave the column "
            "out of --keep-columns"
        ) from err


def _converter(kind: pa.DataType) -> Callable[[Any, bool], Any]:
    """Returns the function that turns a value, or a cell, into what pyarrow takes for ``kind``."""
    if _is_text(kind):
        return lambda value, is_cell: value if isinstance(value, str) else _json_text(value)
    if _is_bytes(kind):
        return lambda value, is_cell: base64.b64decode(value)
    if pa.types.is_boolean(kind):
        return lambda value, is_cell: _BOOLEANS.get(value.lower(), value) if is_cell else value
    if pa.types.is_floating(kind):
        return lambda value, is_cell: _number(value, float)
    if _is_span(kind):
        return lambda value, is_cell: _count(value, kind.unit)
    if pa.types.is_integer(kind):
        return lambda value, is_cell: _number(value, int) if is_cell else value
    if _is_parsed(kind):
        return lambda value, is_cell: str(value)
    if pa.types.is_nested(kind):
        return lambda value, is_cell: _fitted(value, kind)
    return lambda value, is_cell: value


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
    """Returns the number of ``unit`` in a time of day or duration such as ``1500ms``."""
    number = value.rstrip("muns")
    return int(number) * _UNITS[value[len(number) :]] // _UNITS[unit]


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    try:
        return kind(value)
    except ValueError:  # pyarrow's error says more
        return value


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if values.type == kind:
        return values
    if pa.types.is_null(kind) or values.null_count == len(values):
        return pa.nulls(len(values), kind)
    if _is_text(kind):
        texts = plain_values(values)
        return pa.array(
            [one if one is None or isinstance(one, str) else _json_text(one) for one in texts], kind
        )
    return values.cast(kind, safe=not pa.types.is_floating(kind))  # large integers are rounded
