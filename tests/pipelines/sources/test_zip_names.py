"""Names of a zip's members: one name each, on every Python, whatever program wrote them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.bulk.skip import decide
from captionbeam.pipelines.fetch.images import fetch
from captionbeam.schemas.errors import RequestError
from tests.builders.sources import listed, make_raw_zip, picture, unicode_path

CAFE, CAT = "café.jpg", "猫.jpg"
TIMES = struct.pack("<HHBI", 0x5455, 5, 1, 0)  # another extra field, before the one that is looked for
RAW = b"\x94L.jpg"  # the cat in Shift-JIS


def names(path):
    return [ref.image_id for ref in listed(path)[0]]


@pytest.mark.parametrize(
    ("raw", "extra", "flags", "image_id"),
    [
        (b"a.jpg", b"", 0, "a.jpg"),
        (CAFE.encode(), b"", 0x800, CAFE),
        (CAFE.encode(), b"", 0, CAFE),
        (CAT.encode(), TIMES, 0, CAT),
        (CAFE.encode("cp437"), b"", 0, CAFE),
        (RAW, b"", 0, "öL.jpg"),
        (RAW, TIMES + unicode_path(RAW, CAT.encode()), 0, CAT),
        (b"cat.jpg", unicode_path(b"cat.jpg", CAT.encode()), 0, CAT),
        (RAW, unicode_path(b"another.jpg", CAT.encode()), 0, "öL.jpg"),
        (RAW, unicode_path(RAW, CAT.encode(), version=2), 0, "öL.jpg"),
        (RAW, unicode_path(RAW, b""), 0, "öL.jpg"),
        (CAFE.encode(), unicode_path(CAFE.encode(), CAT.encode()), 0x800, CAFE),
    ],
)
def test_a_members_name_is_what_was_meant(tmp_path, raw, extra, flags, image_id):
    path = make_raw_zip(tmp_path / "x.zip", [(raw, extra, picture("1"))], flags)
    assert names(path) == [image_id]
    refs, _ = listed(path)
    assert fetch(refs) == [picture("1")]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/\\"), min_size=1, max_size=20))
def test_utf8_without_its_flag_is_utf8(tmp_path_factory, stem):
    folder = tmp_path_factory.mktemp("zips")
    path = make_raw_zip(folder / "x.zip", [(f"d/{stem}.jpg".encode(), b"", picture("1"))])
    assert [ref.image_id for ref in listed(path)[0]] == [f"d/{stem}.jpg"]


@pytest.mark.parametrize(
    "field",
    [struct.pack("<HH", 0x7075, 2) + b"\1\0", unicode_path(RAW, b"\xff")],
    ids=["short", "no UTF-8"],
)
@pytest.mark.parametrize("before", [b"", TIMES], ids=["alone", "after another field"])
@pytest.mark.filterwarnings("error")
def test_a_broken_unicode_path_leaves_its_member_the_name_in_the_header(tmp_path, before, field):
    cat = unicode_path(b"cat.jpg", CAT.encode())
    members = [
        (RAW, before + field, picture("1")),
        (b"cat.jpg", cat, picture("2")),
        (b"up.jpg", b"", picture("3")),
    ]
    path = make_raw_zip(tmp_path / "x.zip", members)
    assert names(path) == ["öL.jpg", CAT, "up.jpg"]
    assert fetch(listed(path)[0]) == [picture("1"), picture("2"), picture("3")]


def test_two_members_whose_names_become_equal_are_both_named(tmp_path):
    path = make_raw_zip(tmp_path / "x.zip", [(CAFE.encode(), b"", b"1"), (CAFE.encode("cp437"), b"", b"2")])
    with pytest.raises(RequestError) as caught:
        decide(listed(path)[0], [])
    assert str(caught.value) == (
        f"two images have the id 'café.jpg': zip://café.jpg::{path} at byte 0 (in {path}) and "
        f"zip://café.jpg::{path} at byte 40 (in {path}); expected one"
    )
