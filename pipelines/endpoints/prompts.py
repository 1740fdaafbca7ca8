"""Prompts: each fills one column of the store, and has a fingerprint of its own.

A prompt's text may name columns of the input (``capmodel.templates``); its fingerprint is that of the text with the
names, not of the values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from captionbeam.capmodel.specs import ChatSpec, EndpointSpec
from captionbeam.capmodel.templates import columns_in, question
from captionbeam.pipelines.endpoints.json_schema import arrow_type
from captionbeam.schemas.fingerprint import fingerprint, from_spec, spec_of
from captionbeam.schemas.formats.arrow import answers_field
from captionbeam.schemas.formats.kept import packed

Answers = list[dict[str, Any]]
"""The answers to one prompt about one image, the best first: structs of ``answers_field``."""


@dataclass(frozen=True)
class Prompt:
    """One prompt: its column, its text, and the JSON Schema of its answers (None: plain text).

    ``fingerprint``: of everything that determines its answers besides the image and its ``columns``: the names of
    those that the text names.
    """

    column: str
    text: str
    schema: Mapping[str, Any] | None
    fingerprint: str
    columns: Sequence[str] = ()

    def about(self, used: Mapping[str, str]) -> Prompt:
        """Returns the prompt with the values ``used`` of one image in its text. Raises ImageError if it is blank."""
        return replace(self, text=question(self.column, self.text, used)) if "{" in self.text else self

    def key(self, content: str, used: Mapping[str, str]) -> str:
        """Returns what the answers depend on in one image, as 64 hexadecimal digits.

        It is ``content``, the SHA-256 of the image's bytes, or that of it and the values ``used`` of the columns.
        """
        if not self.columns:
            return content
        values = packed({name: used.get(name) for name in self.columns})
        return hashlib.sha256(f"{content} {values}".encode()).hexdigest()

    @property
    def field(self) -> pa.Field:
        """The output column."""
        value = None if self.schema is None else arrow_type(self.schema)
        return answers_field(self.column, self.fingerprint, value)


def prompts_of(spec: EndpointSpec | ChatSpec) -> list[Prompt]:
    """Returns the prompts of a specification, in the order of their columns."""
    common = {name: value for name, value in spec_of(spec).items() if name not in ("prompts", "scorer")}
    return [
        Prompt(
            column,
            own["text"],
            _schema(own),
            fingerprint({**common, "prompt": own}),
            columns_in(own["text"]),
        )
        for column, own in sorted(spec.prompts.items())
    ]


def prompts_in(spec: Mapping[str, Any]) -> list[Prompt]:
    """Returns the prompts of a store's specification; none if it has none."""
    if "prompts" not in spec:
        return []
    return prompts_of(from_spec(ChatSpec, spec) if "transformers" in spec else from_spec(EndpointSpec, spec))


def _schema(prompt: Mapping[str, Any]) -> Mapping[str, Any] | None:
    schema: Mapping[str, Any] | None = json.loads(prompt["schema"]) if "schema" in prompt else None
    return schema
