"""Answers in JSON by xgrammar (extra ``xgrammar``): a model generates only tokens that its prompt's schema allows.

Shapes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import xgrammar
from torch import Tensor

from captionbeam.schemas.errors import RequestError

VALUES = ("const", "default", "enum", "examples")  # keywords with values rather than schemas
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LIMITS = {"minimum": -(1 << 63), "maximum": (1 << 63) - 1}
INSTEAD = "--captioner vllm: or openai: if a server runs the model"


class Grammars:
    """The grammars of the prompts' JSON Schemas, for one tokenizer.

    ``schemas``: by column, as JSON; their integers get 64 bits, as stored values have. ``vocabulary``: V of the model's
    scores. ``ends``: ids that end an answer. JSON is on one line, with the schema's own properties in its order. Raises
    RequestError for a schema or a tokenizer that xgrammar does not take.
    """

    def __init__(
        self, tokenizer: Any, vocabulary: int, ends: Sequence[int], schemas: Mapping[str, str]
    ) -> None:
        try:
            info = xgrammar.TokenizerInfo.from_huggingface(
                tokenizer, vocab_size=vocabulary, stop_token_ids=list(ends)
            )
        except (RuntimeError, ValueError) as err:
            raise RequestError(
                f"the tokenizer has no JSON by xgrammar ({_sentence(err)}); expected {INSTEAD}"
            ) from err
        compiler = xgrammar.GrammarCompiler(info)
        self._compiled: dict[str, Any] = {}
        for column, schema in schemas.items():
            try:
                self._compiled[column] = compiler.compile_json_schema(
                    json.dumps(bounded(json.loads(schema))), any_whitespace=False
                )
            except (RuntimeError, ValueError) as err:
                raise RequestError(
                    f"the JSON Schema of prompt {column} cannot be a grammar of xgrammar ({_sentence(err)}); expected "
                    f"a simpler one, or {INSTEAD}"
                ) from err

    def allowing(self, column: str) -> list[Allowed]:
        """Returns what to add to the ``logits_processor`` of one ``generate``: nothing for a prompt without schema."""
        return [Allowed(self._compiled[column])] if column in self._compiled else []


def bounded(schema: Any) -> Any:
    """Returns a JSON Schema whose integers have 64 bits, unless it bounds them itself."""
    if isinstance(schema, list):
        return [bounded(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _bounded_part(name, part) for name, part in schema.items()}
    kinds = schema.get("type")
    if kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds and "number" not in kinds):
        for name, limit in LIMITS.items():
            if name not in schema and f"exclusive{name.capitalize()}" not in schema:
                found[name] = limit
    return found


def _bounded_part(keyword: str, part: Any) -> Any:
    if keyword in NAMED and isinstance(part, dict):  # by the names of properties, which may be keywords
        return {name: bounded(own) for name, own in part.items()}
    return part if keyword in VALUES else bounded(part)


class Allowed:
    """Sets the scores of tokens that the grammar does not allow to minus infinity. For one call of ``generate``.

    A sequence whose last token is not allowed is left alone from then on: its answer is invalid.
    """

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._matchers: list[Any] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns ``scores`` ``[B, V]`` by the ``input_ids`` ``[B, T]`` so far. Rows stay in their order (no beams)."""
        if not self._matchers:
            self._matchers = [xgrammar.GrammarMatcher(self._compiled) for _ in scores]
            self._mask = xgrammar.allocate_token_bitmask(*scores.shape)
        else:
            self._accept(input_ids[:, -1].tolist())
        rows = [place for place, matcher in enumerate(self._matchers) if matcher is not None]
        if not rows:
            return scores
        for place in rows:
            self._matchers[place].fill_next_token_bitmask(self._mask, place)
        masked = scores.clone()
        mask = self._mask.to(masked.device)
        xgrammar.apply_token_bitmask_inplace(masked, mask, indices=rows, backend="torch_native")
        return masked

    def _accept(self, tokens: Sequence[int]) -> None:
        """Notes the last token of each sequence; ended and invalid ones need no matcher any more."""
        for place, token in enumerate(tokens):
            matcher = self._matchers[place]
            if matcher is not None and (not matcher.accept_token(token) or matcher.is_terminated()):
                self._matchers[place] = None


def _sentence(err: Exception) -> str:
    """Returns xgrammar's message without time, file and line."""
    return re.sub(r"^\[.*?\] \S+:\d+: |\.$", "", (str(err).strip() or type(err).__name__).splitlines()[0])
