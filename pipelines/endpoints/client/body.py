"""The body of a request: OpenAI's chat completions with a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.endpoints.prompts import Prompt


def request_body(
    spec: EndpointSpec, picture: str, prompt: Prompt, seed: int | None, tokens_field: str
) -> bytes:
    """Returns a request as JSON. ``picture``: a URL; ``tokens_field``: the server's name for the most new tokens."""
    system = [{"role": "system", "content": spec.system}] if spec.system else []
    user = [{"type": "text", "text": prompt.text}, {"type": "image_url", "image_url": {"url": picture}}]
    request = {
        "model": spec.endpoint,
        "messages": [*system, {"role": "user", "content": user}],
        tokens_field: spec.max_new_tokens,
        "temperature": spec.temperature,
        "seed": seed,
        "n": None if spec.n_best == 1 else spec.n_best,
        "response_format": None if prompt.schema is None else _response_format(prompt.column, prompt.schema),
    }
    return json.dumps({name: value for name, value in request.items() if value is not None}).encode()


def _response_format(column: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    name = re.sub(r"[^\w-]", "_", column, flags=re.ASCII)[:64]
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": schema, "strict": _is_strict(schema)},
    }


def _is_strict(schema: Any) -> bool:
    """Whether OpenAI takes a schema as strict: all properties are required, and no others allowed."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("required") or ()) != set(properties):
            return False
        return all(map(_is_strict, properties.values())) and all(
            _is_strict(value) for name, value in schema.items() if name != "properties"
        )
    return all(map(_is_strict, schema.values()))
