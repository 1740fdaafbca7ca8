"""Answers in JSON: their Arrow type by a JSON Schema, and their validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa


def load_schema(url: str) -> dict[str, Any]:
    """Returns the JSON Schema in the file at ``url``. Raises RequestError."""
    raise NotImplementedError


def arrow_type(schema: Mapping[str, Any]) -> pa.DataType:
    """Returns the Arrow type of values of a JSON Schema. Raises RequestError."""
    raise NotImplementedError


def parsed(text: str, schema: Mapping[str, Any]) -> Any:
    """Returns the value of an answer, fit for ``arrow_type``. Raises ValueError with one sentence."""
    raise NotImplementedError
