"""Prompts: each fills one column of the store, and has a fingerprint of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from captionbeam.capmodel.specs import ChatSpec, EndpointSpec
from captionbeam.pipelines.endpoints.schemas import arrow_type
from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.formats.arrow import answers_field


@dataclass(frozen=True)
class Prompt:
    """One prompt: its column, its text, and the JSON Schema of its answers (None: plain text).

    ``fingerprint``: of everything that determines its answers besides the image.
    """

    column: str
    text: str
    schema: Mapping[str, Any] | None
    fingerprint: str

    @property
    def field(self) -> pa.Field:
        """The output column."""
        value = None if self.schema is None else arrow_type(self.schema)
        return answers_field(self.column, self.fingerprint, value)


def prompts_of(spec: EndpointSpec | ChatSpec) -> list[Prompt]:
    """Returns the prompts of a specification, in the order of their columns."""
    common = {name: value for name, value in spec_of(spec).items() if name != "prompts"}
    return [
        Prompt(column, own["text"], _schema(own), fingerprint({**common, "prompt": own}))
        for column, own in sorted(spec.prompts.items())
    ]


def _schema(prompt: Mapping[str, Any]) -> Mapping[str, Any] | None:
    schema: Mapping[str, Any] | None = json.loads(prompt["schema"]) if "schema" in prompt else None
    return schema
