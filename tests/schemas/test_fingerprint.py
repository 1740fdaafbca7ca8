"""What two specifications differ in, in words."""

from __future__ import annotations

import pytest

from captionbeam.schemas.fingerprint import changes, difference

FP32 = {"precision": "fp32"}


def test_what_changed_is_named_from_the_specifications():
    old = {"encoder": {"name": "resnet50", "size": 224}, "bundle": "ab" * 32, **FP32}
    new = {"encoder": {"name": "resnet50", "size": 96, "crop": "square"}, "bundle": "cd" * 32, **FP32}
    assert changes(old, new) == [
        ("bundle", "ab" * 6, "cd" * 6),
        ("encoder.crop", "none", "square"),
        ("encoder.size", "224", "96"),
    ]


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ({"a_b": {"c": 1}}, {"a_b": {"c": 2}, "d": "x"}, "a b.c 1, not 2; d none, not x"),
        ({"a": 1}, {"b": 2, "c": 3, "d": 4}, "a 1, not none; b none, not 2; c none, not 3; 1 more"),
        ({"text": "x" * 99}, {"text": "y"}, f"text {'x' * 60}..., not y"),
        (
            {"decode": {"n_best": 1, "keep": True}},
            {"decode": {"n_best": 2, "keep": False}},
            "--keep on, not off; --n-best 1, not 2",
        ),
        (
            {"prompts": {"captions": {"text": "What?"}}},
            {"prompts": {"captions": {"text": "Who?"}}, "system": "Be brief."},
            "the prompt 'What?', not 'Who?'; system none, not 'Be brief.'",
        ),
        (
            {"prompts": {"in_short": {"text": "What?", "schema": "{}"}}},
            {"prompts": {"in_short": {"text": "Who?"}}},
            "schema of the prompt in_short {}, not none; the prompt in_short 'What?', not 'Who?'",
        ),
        ({"a": 1}, {"a": 1}, None),
    ],
)
def test_a_refusal_says_what_differs(theirs, ours, said):
    assert difference(theirs, ours) == said
