"""Answers in JSON: their Arrow type by a JSON Schema, and their validation.

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

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jsonschema
import pyarrow as pa
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, ObjectSchema, specification_with

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

SHOWN = 80  # characters of a value in a sentence
_INT64 = 1 << 63
_SURROGATE = re.compile("[\ud800-\udfff]")
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\s*```\s*", re.DOTALL | re.IGNORECASE)
_OLD_DRAFT = "/draft-0"  # in ``$schema``: nothing beside a ``$ref`` counts


def load_schema(url: str) -> dict[str, Any]:
    """Returns the JSON Schema in a file, a path or URL; keys keep their order, in which models write properties.

    Raises RequestError if the file cannot be read or has no schema that ``arrow_type`` accepts.
    """
    try:
        schema = json.loads(files.read_bytes(url))
    except RecursionError:
        raise RequestError(f"{url!r} has too many levels; expected a JSON Schema of fewer") from None
    except (OSError, ValueError) as err:
        problem = "cannot be read" if isinstance(err, OSError) else "is not JSON"
        raise RequestError(f"{url!r} {problem} ({err}); expected a JSON Schema") from err
    if not isinstance(schema, dict):
        raise RequestError(f"{url!r} has {_shown(schema)}; expected a JSON Schema, which is an object")
    try:
        arrow_type(schema)
    except RequestError as err:
        raise RequestError(f"{url!r}: {err}") from err
    return schema


def arrow_type(schema: Mapping[str, Any]) -> pa.DataType:
    """Returns the Arrow type of values of a JSON Schema, by its draft in ``$schema``, else draft 2020-12.

    Raises RequestError if the schema is invalid, refers to itself or elsewhere, or allows nothing but null.
    """
    try:
        return _answers(_text(schema)).shape.type
    except RecursionError:
        raise RequestError("the JSON Schema has too many levels; expected fewer") from None


def parsed(text: str, schema: Mapping[str, Any]) -> Any:
    """Returns the value of an answer, fit for ``arrow_type``. A fence around the JSON is left out.

    Raises ValueError with one sentence: where in the answer, the value, and what was expected.
    """
    answers = _answers(_text(schema))
    try:
        value = _loaded(text)
        error = best_match(answers.validator.iter_errors(value))
        if error is not None:
            raise ValueError(f"{error.json_path} is {_shown(error.instance)}; expected {_expected(error)}")
        return answers.shape.fit(value, "$")
    except (RecursionError, OverflowError):
        raise ValueError(
            f"the answer is {_cut(text)!r}; expected JSON of fewer levels and smaller numbers"
        ) from None


def _loaded(text: str) -> Any:
    fenced = _FENCE.fullmatch(text)
    try:
        return json.loads(fenced[1] if fenced else text, parse_constant=_refuse)
    except ValueError as err:
        raise ValueError(f"the answer is {_cut(text)!r}; expected JSON ({err})") from None


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
            raise ValueError(f"{path} is {_shown(value)}; expected {_NAMES[self.name]}")
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
            raise ValueError(f"{path} is {_shown(value)}; expected an object")
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
            raise ValueError(f"{path} is {_shown(value)}; expected an array")
        return [self.item.fit(one, f"{path}[{at}]") for at, one in enumerate(value)]


Shape = Scalar | Struct | Array
JSON = Scalar("json", pa.string())
_SCALARS = {
    "string": Scalar("string", pa.string()),
    "integer": Scalar("integer", pa.int64()),
    "number": Scalar("number", pa.float64()),
    "boolean": Scalar("boolean", pa.bool_()),
}
ENUM = Scalar("enum", pa.dictionary(pa.int32(), pa.string()))


@dataclass(frozen=True)
class _Answers:
    """A schema's validator, and the shape of its values."""

    validator: Any
    shape: Shape


@functools.lru_cache(maxsize=256)
def _answers(text: str) -> _Answers:
    """Returns validator and shape of a schema in JSON. Raises RequestError."""
    schema = json.loads(text)
    if not isinstance(schema, dict):
        raise RequestError(f"a JSON Schema is {_cut(text)}; expected an object")
    if half := _SURROGATE.search(text):
        near = text[max(0, half.start() - SHOWN // 4) : half.end()]
        raise RequestError(f"the JSON Schema has {near!r}; expected Unicode text")
    named = schema.get("$schema", DRAFT202012.name)
    kind: Any = jsonschema.validators.validator_for(schema, default=None)
    if kind is None:
        if "$schema" in schema:
            raise RequestError(f"the JSON Schema's $schema is {named!r}; expected a published draft's")
        kind = jsonschema.Draft202012Validator
    try:
        kind.check_schema(schema, format_checker=kind.FORMAT_CHECKER)
    except SchemaError as err:
        raise RequestError(
            f"the JSON Schema's {err.json_path} is {_shown(err.instance)}; expected {_expected(err)}"
        ) from err
    _check_references(schema)
    shape = _Shapes(schema).shape
    if shape is None:
        raise RequestError(f"the JSON Schema {_cut(text)} allows no value except null; expected answers")
    return _Answers(kind(schema, registry=Registry()), shape)


def _check_references(schema: ObjectSchema) -> None:
    """Raises RequestError if a part of the schema refers to what is not in it."""
    resource = _specification(schema).create_resource(schema)
    waiting = [(resource, _resolver(schema))]
    while waiting:
        part, resolver = waiting.pop()
        inside = resolver.in_subresource(part)
        if isinstance(part.contents, dict) and isinstance(part.contents.get("$ref"), str):
            _looked_up(inside, part.contents["$ref"])
        waiting += [(one, inside) for one in part.subresources()]


def _specification(schema: ObjectSchema) -> Any:
    return specification_with(schema.get("$schema", ""), default=DRAFT202012)


def _resolver(schema: ObjectSchema) -> Any:
    registry: Any = Registry()
    return registry.resolver_with_root(_specification(schema).create_resource(schema))


def _looked_up(resolver: Any, ref: str) -> Any:
    try:
        return resolver.lookup(ref)
    except Unresolvable as err:
        raise RequestError(
            f"the JSON Schema refers to {ref!r}; expected a definition inside the schema"
        ) from err


class _Shapes:
    """Finds the shape of all values of a schema. ``shape``: of the schema itself, None if its values are null."""

    def __init__(self, schema: ObjectSchema) -> None:
        self._specification, self._resolver = _specification(schema), _resolver(schema)
        self._open: list[int] = []
        self._ref_alone = _OLD_DRAFT in str(schema.get("$schema"))
        self.shape = self._of(schema)

    def _of(self, schema: Any) -> Shape | None:
        """Returns the shape of values of ``schema``; None if there are none, except null."""
        if not isinstance(schema, dict):
            return JSON if schema else None
        before = self._resolver
        self._resolver = before.in_subresource(self._specification.create_resource(schema))
        try:
            return _conjunction(list(self._each(schema)))
        finally:
            self._resolver = before

    def _each(self, schema: Mapping[str, Any]) -> Iterator[Shape | None]:
        """Yields the shapes by each keyword; values have all of them."""
        if "$ref" in schema:
            yield self._referred(schema["$ref"])
            if self._ref_alone:
                return
        if "const" in schema:
            yield _of_values([schema["const"]])
        if "enum" in schema:
            yield _of_values(schema["enum"])
        yield self._by_type(schema)
        for part in schema.get("allOf", ()):
            yield self._of(part)
        for name in ("anyOf", "oneOf"):
            if name in schema:
                yield _disjunction([self._of(part) for part in schema[name]])

    def _by_type(self, schema: Mapping[str, Any]) -> Shape | None:
        implied = "object" if "properties" in schema else "array" if "items" in schema else None
        given = schema.get("type", implied)
        if given is None:
            return JSON
        types = given if isinstance(given, list) else [given]
        return _disjunction([self._of_type(schema, kind) for kind in types])

    def _of_type(self, schema: Mapping[str, Any], kind: Any) -> Shape | None:
        if kind == "null":
            return None
        if kind == "object" and schema.get("properties"):
            fields = {name: self._of(part) or JSON for name, part in schema["properties"].items()}
            return Struct(fields)
        if kind == "array" and "prefixItems" not in schema and isinstance(schema.get("items"), dict):
            return Array(self._of(schema["items"]) or JSON)
        return _SCALARS.get(str(kind), JSON)

    def _referred(self, ref: str) -> Shape | None:
        before = self._resolver
        found = _looked_up(before, ref)
        if id(found.contents) in self._open:
            raise RequestError(
                f"the JSON Schema's {ref!r} contains itself; expected a schema without recursion"
            )
        self._open.append(id(found.contents))
        self._resolver = found.resolver
        try:
            return self._of(found.contents)
        finally:
            self._resolver = before
            self._open.pop()


def _conjunction(shapes: Sequence[Shape | None]) -> Shape | None:
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
            fields[name] = _conjunction([fields.get(name, JSON), shape])
    return Struct({name: shape or JSON for name, shape in fields.items()})


def _disjunction(shapes: Sequence[Shape | None]) -> Shape | None:
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
    return _SCALARS.get(both.get(frozenset(names), ""), JSON)


def _of_values(values: Sequence[Any]) -> Shape | None:
    """Returns the shape of an enum."""
    kinds = {_kind(value) for value in values if value is not None}
    if not kinds:
        return None
    if kinds == {"string"}:
        return ENUM
    if kinds <= {"integer", "number"}:
        return _SCALARS["number" if "number" in kinds else "integer"]
    return _SCALARS["boolean"] if kinds == {"boolean"} else JSON


def _kind(value: Any) -> str:
    names = {bool: "boolean", str: "string", int: "integer", float: "number"}
    if type(value) is int and not -_INT64 <= value < _INT64:
        return "json"
    return names.get(type(value), "json")


def _text(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _is_unicode(text: str) -> bool:
    """Returns whether ``text`` can be encoded; half of a surrogate pair, as JSON may escape it, cannot."""
    return text.isascii() or not _SURROGATE.search(text)


def _shown(value: Any) -> str:
    return _cut(json.dumps(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _expected(error: ValidationError | SchemaError) -> str:
    """Returns what a schema's keyword demands."""
    says: Any = error.validator_value
    match error.validator:
        case "type":
            return " or ".join(says) if isinstance(says, list) else str(says)
        case "enum":
            return f"one of {_cut(', '.join(map(json.dumps, says)))}"
        case "const":
            return _shown(says)
        case "required":
            return str(error.message).replace("is a required property", "in it")
        case "minimum" | "minLength" | "minItems" | "minProperties":
            return f"at least {says}{_UNITS.get(str(error.validator), '')}"
        case "maximum" | "maxLength" | "maxItems" | "maxProperties":
            return f"at most {says}{_UNITS.get(str(error.validator), '')}"
        case "anyOf" | "oneOf" if alternatives := _alternatives(error):
            return " or ".join(alternatives)
        case "additionalProperties" | "unevaluatedProperties":
            return f"no other properties than the schema's ({error.message})"
        case _:
            return f"what the schema says: {error.validator} {_shown(says)}"


def _alternatives(error: ValidationError | SchemaError) -> list[str]:
    """Returns what the alternatives of an ``anyOf`` demand of the value itself, not of its parts."""
    return list(dict.fromkeys(_expected(one) for one in error.context or () if not one.relative_path))


_UNITS = {
    f"{end}{name}": unit
    for end in ("min", "max")
    for name, unit in (("Length", " characters"), ("Items", " items"), ("Properties", " properties"))
}
