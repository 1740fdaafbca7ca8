"""Answers in JSON: their Arrow type by a JSON Schema, and their validation."""

from captionbeam.pipelines.endpoints.json_schema.parsing import arrow_type, load_schema, parsed

__all__ = ["arrow_type", "load_schema", "parsed"]
