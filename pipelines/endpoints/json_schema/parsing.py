"""JSON Schemas from files, and the values of answers by them."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jsonschema
import pyarrow as pa
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from captionbeam.pipelines.endpoints.json_schema.shape_finder import check_references, shape_of
from captionbeam.pipelines.endpoints.json_schema.shapes import SHOWN, SURROGATE, Shape, cut, shown
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\s*```\s*", re.DOTALL | re.IGNORECASE)


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
        raise RequestError(f"{url!r} has {shown(schema)}; expected a JSON Schema, which is an object")
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
            raise ValueError(f"{error.json_path} is {shown(error.instance)}; expected {_expected(error)}")
        return answers.shape.fit(value, "$")
    except (RecursionError, OverflowError):
        raise ValueError(
            f"the answer is {cut(text)!r}; expected JSON of fewer levels and smaller numbers"
        ) from None


def _loaded(text: str) -> Any:
    fenced = _FENCE.fullmatch(text)
    try:
        return json.loads(fenced[1] if fenced else text, parse_constant=_refuse)
    except ValueError as err:
        raise ValueError(f"the answer is {cut(text)!r}; expected JSON ({err})") from None


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
        raise RequestError(f"a JSON Schema is {cut(text)}; expected an object")
    if half := SURROGATE.search(text):
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
            f"the JSON Schema's {err.json_path} is {shown(err.instance)}; expected {_expected(err)}"
        ) from err
    check_references(schema)
    shape = shape_of(schema)
    if shape is None:
        raise RequestError(f"the JSON Schema {cut(text)} allows no value except null; expected answers")
    return _Answers(kind(schema, registry=Registry()), shape)


def _text(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _expected(error: ValidationError | SchemaError) -> str:
    """Returns what a schema's keyword demands."""
    says: Any = error.validator_value
    match error.validator:
        case "type":
            return " or ".join(says) if isinstance(says, list) else str(says)
        case "enum":
            return f"one of {cut(', '.join(map(json.dumps, says)))}"
        case "const":
            return shown(says)
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
            return f"what the schema says: {error.validator} {shown(says)}"


def _alternatives(error: ValidationError | SchemaError) -> list[str]:
    """Returns what the alternatives of an ``anyOf`` demand of the value itself, not of its parts."""
    return list(dict.fromkeys(_expected(one) for one in error.context or () if not one.relative_path))


_UNITS = {
    f"{end}{name}": unit
    for end in ("min", "max")
    for name, unit in (("Length", " characters"), ("Items", " items"), ("Properties", " properties"))
}
