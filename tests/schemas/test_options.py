"""An option is one field: what it says of values, texts, defaults and groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import (
    NATURAL,
    POSITIVE,
    SHARE,
    SHARE_OR_NUMBER,
    changed,
    check_fields,
    groups_of,
    like,
    number,
    one_of,
    option,
    options_of,
    or_none,
    read,
    text,
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    GROUP = "reading"

    tries: int = option(4, "attempts", POSITIVE)
    roots: tuple[str, ...] = option((), "folders", text("URL"), repeated=True, role="source")


@dataclass(frozen=True, kw_only=True)
class Sampling(Reading):
    GROUP = "sampling"

    sample: float = option(1.0, "of the images", SHARE, role="part")
    limit: int | None = option(None, "at most", POSITIVE, role="part")
    order: str = option("hash", "of the images", one_of("hash", "name"))
    tries: int = like(Reading, "tries", default=2)
    strict: bool = option(False, "no leniency")
    plain: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


def fields():
    return {field.name: (field, found) for field, found in options_of(Sampling)}


@pytest.mark.parametrize(
    ("given_values", "said"),
    [
        ({"sample": 1.5}, "--sample is 1.5; expected a share from 0 to 1"),
        ({"sample": float("nan")}, "--sample is nan; expected a share from 0 to 1"),
        ({"limit": 10**400}, f"--limit is {10**400}; expected a whole number above 0"),
        ({"limit": 2.5}, "--limit is 2.5; expected a whole number above 0"),
        ({"order": "random"}, "--order is 'random'; expected one of hash, name"),
        ({"order": "names"}, "--order is 'names'; expected one of hash, name; did you mean name?"),
        ({"roots": ["/a", 3]}, "--roots is 3; expected a text"),
        ({"strict": "false"}, "--strict is 'false'; expected True or False"),
    ],
)
def test_a_wrong_value_is_refused_when_the_object_is_made(given_values, said):
    with pytest.raises(RequestError) as refusal:
        Sampling(**given_values)
    assert str(refusal.value) == said


def test_a_text_that_is_no_number_is_refused_with_the_same_words():
    with pytest.raises(RequestError, match="--limit is 'ten'; expected a whole number above 0"):
        read(*fields()["limit"], "ten")


def test_values_get_the_type_that_the_command_line_reads():
    assert Sampling(roots=["/a", "/b"]).roots == ("/a", "/b")
    assert Sampling(roots="/a").roots == ("/a",)
    options = Sampling(roots=[Path("/a"), "/b"], order=Path("name"))
    assert (options.roots, options.order) == (("/a", "/b"), "name")
    assert Sampling(roots=Path("/a")).roots == ("/a",)
    options = Sampling(sample=1, limit=2.0)
    assert (repr(options.sample), repr(options.limit), options.tries) == ("1.0", "2", 2)


def test_groups_are_those_of_the_declaring_classes():
    names = {title: [field.name for field, _ in entries] for title, entries in groups_of(Sampling).items()}
    assert names == {"sampling": ["sample", "limit", "order", "tries", "strict"], "reading": ["roots"]}


def test_changed_options_by_role():
    options = Sampling(sample=0.5, roots=["/a"], order="name")
    assert changed(options) == {"sample": 0.5, "roots": ("/a",), "order": "name"}
    assert changed(options, ("part",)) == {"sample": 0.5}
    assert changed(Sampling()) == {}


@given(st.integers())
def test_whole_numbers_are_read_as_they_are_written(value):
    assert NATURAL.holds(value) == (value >= 0)
    assert number(whole=True).read(str(value)) == value


@given(st.floats())
def test_a_share_or_number_is_below_one_or_whole(value):
    finite = value == value and abs(value) != float("inf")
    assert SHARE_OR_NUMBER.holds(value) == (finite and value >= 0 and (value < 1 or value == int(value)))


def test_a_word_for_none():
    kind = or_none(POSITIVE, "all")
    assert (kind.read("all"), kind.read("3"), kind.unit) == (None, 3, "all|N")
