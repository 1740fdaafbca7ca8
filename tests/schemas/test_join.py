"""Images joined by name: equal ids, whatever their Unicode form, else the one base name that fits."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.match_ids import match_images, normal

NFC, NFD = "caf\u00e9.jpg", "cafe\u0301.jpg"
DIFFERENT = st.lists(st.text(min_size=1), unique_by=normal)


def test_images_are_joined_by_id_or_by_the_one_base_name():
    available = ["train/a.jpg", "val/b.jpg", "b.jpg", "x/c.jpg", "y/c.jpg"]
    assert match_images(["a.jpg", "b.jpg", "nowhere.jpg"], available) == {
        "a.jpg": "train/a.jpg",
        "b.jpg": "b.jpg",
    }
    with pytest.raises(RequestError, match=r"'c.jpg' fits 2 images \('x/c.jpg', 'y/c.jpg'\); expected one"):
        match_images(["c.jpg"], available)


def test_a_backslash_separates_folders_too():
    assert match_images(["back.jpg", r"c\d.jpg"], [r"dir\back.jpg", "e/d.jpg"]) == {
        "back.jpg": r"dir\back.jpg",
        r"c\d.jpg": "e/d.jpg",
    }


@given(DIFFERENT, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["NFC", "NFD"]))
def test_every_unicode_form_of_an_id_joins_every_other(ids, ours, theirs):
    wanted, available = ([unicodedata.normalize(form, name) for name in ids] for form in (ours, theirs))
    assert match_images(wanted, available) == dict(zip(wanted, available, strict=True))


@pytest.mark.parametrize(("wanted", "available"), [([NFC, NFD], ["a.jpg"]), (["a.jpg"], [NFD, NFC])])
def test_two_ids_of_one_side_that_only_look_alike_are_told_apart_in_the_error(wanted, available):
    sentence = r"once written 'caf\xe9.jpg' and once 'cafe\u0301.jpg': the same text in two Unicode forms; expected one"
    with pytest.raises(RequestError, match=re.escape(sentence)):
        match_images(wanted, available)
