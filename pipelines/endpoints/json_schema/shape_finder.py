"""The shape that all values of a JSON Schema have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, ObjectSchema, specification_with

from captionbeam.pipelines.endpoints.json_schema.shapes import (
    JSON,
    SCALARS,
    Array,
    Shape,
    Struct,
    conjunction,
    disjunction,
    of_values,
)
from captionbeam.schemas.errors import RequestError

_OLD_DRAFT = "/draft-0"  # in ``$schema``: nothing beside a ``$ref`` counts


def shape_of(schema: ObjectSchema) -> Shape | None:
    """Returns the shape of all values of ``schema``; None if these are null. Raises RequestError if it recurs."""
    return _Shapes(schema).shape


def check_references(schema: ObjectSchema) -> None:
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
            return conjunction(list(self._each(schema)))
        finally:
            self._resolver = before

    def _each(self, schema: Mapping[str, Any]) -> Iterator[Shape | None]:
        """Yields the shapes by each keyword; values have all of them."""
        if "$ref" in schema:
            yield self._referred(schema["$ref"])
            if self._ref_alone:
                return
        if "const" in schema:
            yield of_values([schema["const"]])
        if "enum" in schema:
            yield of_values(schema["enum"])
        yield self._by_type(schema)
        for part in schema.get("allOf", ()):
            yield self._of(part)
        for name in ("anyOf", "oneOf"):
            if name in schema:
                yield disjunction([self._of(part) for part in schema[name]])

    def _by_type(self, schema: Mapping[str, Any]) -> Shape | None:
        implied = "object" if "properties" in schema else "array" if "items" in schema else None
        given = schema.get("type", implied)
        if given is None:
            return JSON
        types = given if isinstance(given, list) else [given]
        return disjunction([self._of_type(schema, kind) for kind in types])

    def _of_type(self, schema: Mapping[str, Any], kind: Any) -> Shape | None:
        if kind == "null":
            return None
        if kind == "object" and schema.get("properties"):
            fields = {name: self._of(part) or JSON for name, part in schema["properties"].items()}
            return Struct(fields)
        if kind == "array" and "prefixItems" not in schema and isinstance(schema.get("items"), dict):
            return Array(self._of(schema["items"]) or JSON)
        return SCALARS.get(str(kind), JSON)

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
