"""The shapes of values in JSON, and their Arrow types.

======================================== ==========================
JSON Schema                              Arrow
======================================== ==========================
object with properties                   struct, all fields nullable
array with one schema for its items      list
string, of any format                    string
enum or const of strings                 dictionary<int32, string>
integer, number, boolean                 int64, float64, bool
anything else                            string, with the JSON text
======================================== ==========================

"Anything else" has no fixed type: objects without properties, arrays of any items, ``anyOf`` of several types. Values
may be null everywhere. Properties that the schema does not name are only in an answer's text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

SHOWN = 80  # characters of a value in a sentence
SURROGATE = re.compile("[\ud800-\udfff]")
_INT64 = 1 << 63


@dataclass(frozen=True)
class Scalar:
    """A value without parts; with ``name`` ``json``, any value, as JSON text."""

    name: str
    type: pa.DataType

    def fit(self, value: Any, path: str) -> Any:
        """Returns ``value`` as one of ``type``. Raises ValueError."""
        if value is None:
            return None
        fitted = getattr(self, f"_{self.name}")(value)
        if fitted is None:
            raise ValueError(f"{path} is {shown(value)}; expected {_NAMES[self.name]}")
        return fitted

    def _json(self, value: Any) -> str | None:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except ValueError:
            return None
        return self._string(text)

    def _string(self, value: Any) -> str | None:
        return value if isinstance(value, str) and _is_unicode(value) else None

    _enum = _string

    def _integer(self, value: Any) -> int | None:
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return int(value) if is_whole and not isinstance(value, bool) and -_INT64 <= value < _INT64 else None

    def _number(self, value: Any) -> float | None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:
            return None

    def _boolean(self, value: Any) -> bool | None:
        return value if isinstance(value, bool) else None


_NAMES = {
    "json": "JSON with Unicode text and finite numbers",
    "string": "a string of Unicode text",
    "enum": "a string of Unicode text",
    "integer": "an integer of 64 bits",
    "number": "a number that fits into 64 bits",
    "boolean": "true or false",
}


@dataclass(frozen=True)
class Struct:
    """An object with known properties."""

    fields: Mapping[str, Shape]

    @property
    def type(self) -> pa.DataType:
        """A struct with nullable fields."""
        return pa.struct([pa.field(name, shape.type) for name, shape in self.fields.items()])

    def fit(self, value: Any, path: str) -> dict[str, Any] | None:
        """Returns the known properties of an object. Raises ValueError."""
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ValueError(f"{path} is {shown(value)}; expected an object")
        return {name: shape.fit(value.get(name), f"{path}.{name}") for name, shape in self.fields.items()}


@dataclass(frozen=True)
class Array:
    """A list of items of one shape."""

    item: Shape

    @property
    def type(self) -> pa.DataType:
        """A list of nullable items."""
        return pa.list_(self.item.type)

    def fit(self, value: Any, path: str) -> list[Any] | None:
        """Returns a list with its items fitted. Raises ValueError."""
        if value is None:
            return None
        if not isinstance(value, list):
            raise ValueError(f"{path} is {shown(value)}; expected an array")
        return [self.item.fit(one, f"{path}[{at}]") for at, one in enumerate(value)]


Shape = Scalar | Struct | Array
JSON = Scalar("json", pa.string())
SCALARS = {
    "string": Scalar("string", pa.string()),
    "integer": Scalar("integer", pa.int64()),
    "number": Scalar("number", pa.float64()),
    "boolean": Scalar("boolean", pa.bool_()),
}
ENUM = Scalar("enum", pa.dictionary(pa.int32(), pa.string()))


def conjunction(shapes: Sequence[Shape | None]) -> Shape | None:
    """Returns the shape of values that have all ``shapes``: objects have the fields of each."""
    fixed = [shape for shape in shapes if shape != JSON]
    if None in fixed or not fixed:
        return None if fixed else JSON
    structs = [shape for shape in fixed if isinstance(shape, Struct)]
    if len(structs) < len(fixed):
        return next(shape for shape in fixed if not isinstance(shape, Struct))
    fields: dict[str, Shape | None] = {}
    for struct in structs:
        for name, shape in struct.fields.items():
            fields[name] = conjunction([fields.get(name, JSON), shape])
    return Struct({name: shape or JSON for name, shape in fields.items()})


def disjunction(shapes: Sequence[Shape | None]) -> Shape | None:
    """Returns the shape of values that have one of ``shapes``; JSON text if they differ."""
    found: list[Shape] = []
    for shape in shapes:
        if shape is not None and shape not in found:
            found.append(shape)
    if not found:
        return None
    names = {shape.name if isinstance(shape, Scalar) else "" for shape in found}
    if len(found) == 1:
        return found[0]
    both = {frozenset({"enum", "string"}): "string", frozenset({"integer", "number"}): "number"}
    return SCALARS.get(both.get(frozenset(names), ""), JSON)


def of_values(values: Sequence[Any]) -> Shape | None:
    """Returns the shape of an enum."""
    kinds = {_kind(value) for value in values if value is not None}
    if not kinds:
        return None
    if kinds == {"string"}:
        return ENUM
    if kinds <= {"integer", "number"}:
        return SCALARS["number" if "number" in kinds else "integer"]
    return SCALARS["boolean"] if kinds == {"boolean"} else JSON


def _kind(value: Any) -> str:
    names = {bool: "boolean", str: "string", int: "integer", float: "number"}
    if type(value) is int and not -_INT64 <= value < _INT64:
        return "json"
    return names.get(type(value), "json")


def _is_unicode(text: str) -> bool:
    """Returns whether ``text`` can be encoded; half of a surrogate pair, as JSON may escape it, cannot."""
    return text.isascii() or not SURROGATE.search(text)


def shown(value: Any) -> str:
    """Returns a value as JSON, cut for a sentence."""
    return cut(json.dumps(value))


def cut(text: str) -> str:
    """Returns the start of a text, for a sentence."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
