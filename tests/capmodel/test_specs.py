"""Specifications: what is in a fingerprint, and why an option added later changes none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.decoders import DecoderConfig
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.capmodel.specs import (
    CaptionsSpec,
    ChatSpec,
    EndpointSpec,
    FeaturesSpec,
    ImportedSpec,
    PreprocessSpec,
    Reduction,
    TransformersSpec,
    complete_spec,
)
from captionbeam.pipelines.endpoints.prompts import prompts_of
from captionbeam.pipelines.reduction.svd import SvdOptions
from captionbeam.pipelines.tokens.tokenize import TokenizeOptions
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import fingerprint, from_spec, spec_of

RECORDED = Path(__file__).parent.parent / "fixtures/defaults.json"
HASHED = (
    PreprocessSpec, FeaturesSpec, ImportedSpec, CaptionsSpec, TransformersSpec, ChatSpec, DecodeOptions,
    DecoderConfig, SvdOptions, TokenizeOptions,
)  # fmt: skip
FEATURES = FeaturesSpec("resnet50", "grid", "ab" * 32, PreprocessSpec(224, 256))
SPECS = [
    FEATURES,
    dataclasses.replace(
        FEATURES, precision="bf16", layers=("a", "b"), reduction=Reduction("pca", 8, "cd" * 32)
    ),
    ImportedSpec("vgg16", "pooled", (512,), dtype="int8"),
    CaptionsSpec("ef" * 32, fingerprint(spec_of(FEATURES)), FEATURES, DecodeOptions(beam=5)),
    TransformersSpec("01" * 32, "git"),
    ChatSpec("01" * 32, "llava", {"captions": {"text": "?"}}, DecodeOptions(method="greedy")),
    EndpointSpec("m", {"captions": {"text": "?", "schema": {"type": "object", "properties": {}}}}, n_best=2),
    DecodeOptions(method="sample", temperature=0.5),
    DecoderConfig(50, (8, 8, 2048), hidden_dim=32),
]


def defaults(cls: type) -> dict[str, Any]:
    fields = {field.name: field.default for field in dataclasses.fields(cls)}
    values = {name: value for name, value in fields.items() if value is not dataclasses.MISSING}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_a_record_is_json_and_is_read_back(spec):
    assert from_spec(type(spec), json.loads(json.dumps(spec_of(spec)))) == spec


def test_a_record_has_what_differs_from_the_defaults_and_what_has_none():
    assert spec_of(FEATURES) == {
        "name": "resnet50",
        "output": "grid",
        "weights_sha256": "ab" * 32,
        "preprocess": {"size": 224, "resize": 256, "version": 1},
    }


def test_readers_get_a_record_with_its_defaults():
    whole = complete_spec(spec_of(SPECS[3]))
    assert whole["encoder"] == dataclasses.asdict(FEATURES) | {"layers": []}
    assert whole["decode"] == dataclasses.asdict(DecodeOptions(beam=5))
    assert whole["precision"] == "fp32"
    assert complete_spec({"made": "by hand"}) == {"made": "by hand"}


@given(
    index=st.integers(0, len(SPECS) - 1),
    default=st.none() | st.booleans() | st.integers() | st.text() | st.just(()),
)
def test_an_option_added_later_changes_no_fingerprint_at_its_default(index, default):
    spec = SPECS[index]
    later: Any = dataclasses.make_dataclass(
        "Later",
        [("added", Any, dataclasses.field(default=default))],
        bases=(type(spec),),
        frozen=True,
        kw_only=True,
    )
    values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    assert fingerprint(spec_of(later(**values))) == fingerprint(spec_of(spec))
    assert (
        fingerprint(spec_of(later(**values, added="else"))) != fingerprint(spec_of(spec)) or default == "else"
    )


def test_a_model_of_transformers_with_prompts_has_a_specification_of_its_own():
    chat = ChatSpec("01" * 32, "llava", {"captions": {"text": "?"}})
    assert complete_spec(spec_of(chat))["max_new_tokens"] == 512
    assert spec_of(TransformersSpec("01" * 32, "git")) == {"transformers": "01" * 32, "model_type": "git"}
    assert "prompts" not in complete_spec(spec_of(TransformersSpec("01" * 32, "git")))


def test_an_option_of_a_newer_version_is_refused():
    with pytest.raises(
        RequestError, match="PreprocessSpec has sharpen, which this captionbeam does not know"
    ):
        from_spec(FeaturesSpec, {**spec_of(FEATURES), "preprocess": {"size": 1, "resize": 1, "sharpen": 2}})


@pytest.mark.parametrize("cls", HASHED, ids=lambda cls: cls.__name__)
def test_a_default_never_changes(cls):
    """A record leaves out what has its default, so another default would change what old records mean."""
    recorded = json.loads(RECORDED.read_text())[cls.__name__]
    assert {name: json_of(value) for name, value in defaults(cls).items() if name in recorded} == recorded


def json_of(value: Any) -> Any:
    return spec_of(value) if dataclasses.is_dataclass(value) else value


def test_a_schemas_order_is_kept_and_counts():
    """Models write properties in the schema's order: a reason first, and then the answer that follows from it."""
    orders = [{"reason": {}, "answer": {}}, {"answer": {}, "reason": {}}]
    specs = [EndpointSpec("m", {"a": {"text": "?", "schema": {"properties": order}}}) for order in orders]
    records = [json.loads(json.dumps(spec_of(spec), sort_keys=True)) for spec in specs]
    found = [prompts_of(from_spec(EndpointSpec, record))[0] for record in records]
    assert [list(prompt.schema["properties"]) for prompt in found] == [list(order) for order in orders]
    assert found[0].fingerprint != found[1].fingerprint
