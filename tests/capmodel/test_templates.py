"""Columns in prompts: what is one, what stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.templates import columns_in, columns_of_prompts, filled, question, unfilled
from captionbeam.schemas.errors import ImageError

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


@pytest.mark.parametrize(("text", "found"), [
    ("{a} {{a}} {b} { b } {ab} {'a'} {\"a\": 1} a}", {}),
    ("{ a } and {A:>3}", {"{ a }": "a", "{A:>3}": "a"}),
    ("{{ a }}, {a, b}", {"{{ a }}": "a", "{a, b}": "a"}),
    ("It is {a", {"{a": "a"}),
    ("{image title.upper()}", {}),  # refused, as it names a column
    ("{ Image Title!r }", {"{ Image Title!r }": "Image Title"}),
    ("{Image: x}", {"{Image: x}": "Image"}),
])  # fmt: skip
def test_what_looks_like_a_column_and_is_sent_as_text(text, found):
    assert unfilled(text, ["Image", "Image Title", "a"]) == found


@given(st.text("{}ab \"'"))
def test_a_text_is_filled_in_one_way(text):
    assert filled(text, {name: f"{{{name}}}" for name in columns_in(text)}).replace("{", "").replace(
        "}", ""
    ) == (text.replace("{", "").replace("}", ""))


def scanned(text):
    """The columns of a text, found one character after the other."""
    found, place = set(), 0
    while place < len(text):
        opening = len(text[place:]) - len(text[place:].lstrip("{"))
        if not opening:
            place += 1
            continue
        place = end = place + opening
        while end < len(text) and text[end] not in "{}\"':,\r\n":
            end += 1
        closing = len(text[end:]) - len(text[end:].lstrip("}"))
        if closing and (text[place].isalpha() or text[place] == "_"):
            found |= {text[place:end]} if min(opening, closing) % 2 else set()
            end += closing
        place = max(end, place)
    return sorted(found)


@given(st.text("{}ab_1 \"':,\n"))
def test_columns_are_those_that_a_scanner_finds(text):
    assert columns_in(text) == scanned(text)


@pytest.mark.parametrize("text", ["{" * 200_000, "{a" * 100_000, "{" + "a" * 200_000, "}" * 200_000])
def test_long_texts_are_read_once(text):
    """Minutes, if each brace were read again from every one before it."""
    assert columns_in(text) == []
    assert filled(text, VALUES) == text


def test_a_prompt_without_any_text_left_is_an_error():
    assert question("alt", "{a}{b}", VALUES) == "1"
    with pytest.raises(ImageError) as error:
        question("alt", " {b}\n{c} ", VALUES)
    assert str(error.value) == (
        "model: empty_prompt: the prompt 'alt' is empty, as the image has no value for {b}, {c}"
    )


def test_columns_of_all_prompts():
    prompts = {"x": {"text": "{b} {a}"}, "y": {"text": "{a} {c}"}}
    assert columns_of_prompts({"endpoint": "m", "prompts": prompts}) == ["a", "b", "c"]
    assert columns_of_prompts({"encoder": "resnet50"}) == []
