"""Google's published description of an API, as a judge of what is sent to it: nothing unknown, every type right."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator


class Call(NamedTuple):
    """A method of the API that a request turned out to mean: its id, its path's parameters, what its body is."""

    id: str
    path: dict[str, str]
    body: str | None


@functools.cache
def document(name: str = "dataflow.v1b3") -> dict[str, Any]:
    """The document that Google's own Python client ships."""
    folder = resources.files("googleapiclient.discovery_cache.documents")
    return json.loads((folder / f"{name}.json").read_text())


def complaints(value: Any, schema: str, name: str = "dataflow.v1b3") -> list[str]:
    """What the service would refuse in ``value`` as a message ``schema``, each with its place."""
    found = _validator(schema, name).iter_errors(value)
    return sorted(f"{error.json_path}: {error.message}" for error in found)


@functools.cache
def _validator(schema: str, name: str) -> Draft202012Validator:
    definitions = {title: _strict(body) for title, body in document(name)["schemas"].items()}
    return Draft202012Validator({"$ref": f"#/$defs/{schema}", "$defs": definitions})


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A discovery schema as JSON Schema in which an object has no field that is not described."""
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    if schema["type"] == "any":
        return {}
    strict = {"type": schema["type"], **{name: schema[name] for name in ("enum",) if name in schema}}
    if schema.get("format") in ("int64", "uint64"):  # numbers of 64 bits travel as text
        strict["pattern"] = r"^-?\d+$"
    if schema["type"] == "array":
        strict["items"] = _strict(schema["items"])
    if schema["type"] == "object":
        strict["properties"] = {name: _strict(body) for name, body in schema.get("properties", {}).items()}
        more = schema.get("additionalProperties")
        strict["additionalProperties"] = _strict(more) if more else False
    return strict


def find_call(verb: str, path: str, query: Mapping[str, str], name: str = "dataflow.v1b3") -> Call:
    """The method that a request means. Raises LookupError where there is none, or its query is not the method's."""
    for method in _methods(document(name)["resources"]):
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", method["flatPath"])
        match = re.fullmatch(pattern, path.strip("/"))
        if match and method["httpMethod"] == verb:
            known = method.get("parameters", {}).keys() | document(name)["parameters"].keys() | {"$alt"}
            if unknown := query.keys() - known:
                raise LookupError(f"{method['id']} knows no parameter {sorted(unknown)}")
            return Call(method["id"], match.groupdict(), method.get("request", {}).get("$ref"))
    raise LookupError(f"no method for {verb} {path}")


def _methods(tree: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in tree.values():
        yield from resource.get("methods", {}).values()
        yield from _methods(resource.get("resources", {}))
