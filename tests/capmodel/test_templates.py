"""Columns in prompts: what is one, what stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.templates import columns_in, columns_of_prompts, filled

VALUES = {"a": "1", "Image Title": "{a} \\1", "größe": "XL"}


@pytest.mark.parametrize(("text", "columns", "sent"), [
    ("", [], ""),
    ("Describe it.", [], "Describe it."),
    ("{a}, {Image Title}, {größe}{a}", ["Image Title", "a", "größe"], "1, {a} \\1, XL1"),
    ("{b}.", ["b"], "."),
    ("{{a}}", [], "{a}"),
    ("{{{a}}}", ["a"], "{1}"),
    ("{{{{a}}}}", [], "{{a}}"),
    ('{"a": {"b": 1}}', [], '{"a": {"b": 1}}'),
    ('{"a": {a}}', ["a"], '{"a": 1}'),
    ("{{a}", ["a"], "{1"),
    ("{a: 1} {'a'} {} { a } {1} {a, b} {a\nb} {a", [], "{a: 1} {'a'} {} { a } {1} {a, b} {a\nb} {a"),
])  # fmt: skip
def test_columns_in_a_prompt(text, columns, sent):
    assert columns_in(text) == columns
    assert filled(text, VALUES) == sent


@given(st.text("{}ab \"'"))
def test_a_text_is_filled_in_one_way(text):
    assert filled(text, {name: f"{{{name}}}" for name in columns_in(text)}).replace("{", "").replace(
        "}", ""
    ) == (text.replace("{", "").replace("}", ""))


def test_columns_of_all_prompts():
    prompts = {"x": {"text": "{b} {a}"}, "y": {"text": "{a} {c}"}}
    assert columns_of_prompts({"endpoint": "m", "prompts": prompts}) == ["a", "b", "c"]
    assert columns_of_prompts({"encoder": "resnet50"}) == []
