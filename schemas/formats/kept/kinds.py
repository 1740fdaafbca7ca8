"""The types of kept columns: those of typed sources, and those that all values of a listing have in common."""

from __future__ import annotations

import base64
import math
import re
from decimal import Decimal
from typing import Any

import pyarrow as pa

from captionbeam.schemas.formats.kept.values import CELLS, json_text, unpacked

BOOLEANS = {"true": True, "false": False}
_INTEGER = re.compile(r"-?[1-9]\d*|0")  # others, such as 007, are names rather than numbers, as is 12E4
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]\d+)?")
_ISO = re.compile(r"^(?:(\d{4}-\d\d-\d\d) )?(\d\d:\d\d:\d\d)(\.\d+)?(Z|[-+]\d{4})?$")
DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}  # of a unit's fraction of a second
_MOST_DIGITS = 17  # of a decimal number that a double gives back


def kept_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type in which a column of type ``kind`` is kept.

    Nested types with times, decimals or bytes inside are kept as JSON text, and dictionaries as their values.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return kept_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return kept_type(kind.value_type)
    if is_text(kind) or pa.types.is_null(kind):
        return pa.string() if is_text(kind) else kind
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_nested(kind):
        return kind if _is_json(kind) else pa.string()
    return kind


def plain_values(column: pa.Array) -> list[Any]:
    """Returns a column's values for ``packed``: of JSON's types.

    Decimals, bytes (base64), dates, times (ISO 8601) and durations (seconds: ``1.5s``) are text.
    """
    if isinstance(column, pa.ExtensionArray):
        return plain_values(column.storage)
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain_values(column.dictionary_decode())
    if pa.types.is_nested(kind) and not _is_json(kind):
        return [None if value is None else json_text(value) for value in column.to_pylist()]
    if is_bytes(kind):
        return [None if value is None else base64.b64encode(value).decode() for value in column.to_pylist()]
    if is_span(kind):
        counts = column.cast(pa.int64()).to_pylist()
        return [None if count is None else _seconds(count, kind.unit) for count in counts]
    if is_parsed(kind):
        texts = column.cast(pa.string()).to_pylist()
        return [None if text is None else _ISO.sub(_iso, text) for text in texts]
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


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def is_span(kind: pa.DataType) -> bool:
    return bool(pa.types.is_duration(kind))


def is_parsed(kind: pa.DataType) -> bool:
    """Returns whether values of ``kind`` are parsed from their text."""
    tests = pa.types.is_timestamp, pa.types.is_date, pa.types.is_time, pa.types.is_decimal
    return any(test(kind) for test in tests)


def _iso(found: re.Match[str]) -> str:
    """Returns a time as ISO 8601 has it, without zeros at the end of its seconds."""
    day, time, fraction, zone = found.groups("")
    zone = f"{zone[:3]}:{zone[3:]}" if len(zone) == 5 else zone
    return f"{day}{'T' if day else ''}{time}{fraction.rstrip('0').rstrip('.')}{zone}"


def _seconds(count: int, unit: str) -> str:
    text = format(Decimal(count).scaleb(-DIGITS[unit]), "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "s"


def _is_json(kind: pa.DataType) -> bool:
    """Returns whether JSON has the values of ``kind``."""
    if pa.types.is_struct(kind):  # Parquet has no struct without fields
        return kind.num_fields > 0 and all(_is_json(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_json(kind.value_type)
    tests = (is_text, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    return any(test(kind) for test in tests)


def _cell_type(cell: str) -> pa.DataType:
    if _INTEGER.fullmatch(cell):
        return pa.int64() if -(2**63) <= int(cell) < 2**63 else pa.string()
    if _NUMBER.fullmatch(cell):
        digits = len(cell.lower().partition("e")[0].lstrip("-0.").replace(".", ""))
        return pa.float64() if digits <= _MOST_DIGITS and math.isfinite(float(cell)) else pa.string()
    return pa.bool_() if cell.lower() in BOOLEANS else pa.string()


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
    if is_text(one) or is_text(other):
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
