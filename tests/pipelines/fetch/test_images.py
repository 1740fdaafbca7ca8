"""Fetching: bytes in order, each failure alone and rightly named, everything else raised."""

import errno
import os
import zipfile

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.fetch import reads
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.pipelines.sources import images as fetching
from captionbeam.pipelines.sources.images import fetch, fetch_locations, parse_location
from captionbeam.schemas.errors import ImageError, SystemicError
from captionbeam.schemas.records import ImageRef
from tests.builders.data.sources import (
    codes,
    counted,
    listed,
    make_folder,
    make_parquet,
    make_tar,
    make_zip,
    picture,
    ref_to,
)

QUICK = FetchOptions(attempts=2, timeout=0.3, allow_private=True)
PICTURES = {f"{name}.jpg": picture(name, 700) for name in "abcdef"}


def test_images_of_all_kinds_come_back_in_the_order_asked(tmp_path):
    make_folder(tmp_path / "files", PICTURES)
    make_zip(tmp_path / "x.zip", PICTURES, zipfile.ZIP_DEFLATED)
    make_tar(tmp_path / "x.tar", PICTURES)
    make_parquet(tmp_path / "x.parquet", {"id": list(PICTURES), "image": list(PICTURES.values())})
    found = [listed(tmp_path / name)[0] for name in ("files", "x.zip", "x.tar", "x.parquet")]
    mixed = [refs[i] for i in (5, 0, 3, 1, 4, 2) for refs in found]
    assert fetch(mixed) == [PICTURES[ref.image_id] for ref in mixed]


def test_a_file_is_missing_empty_too_large_a_folder_or_no_file_and_the_others_come(tmp_path):
    make_folder(
        tmp_path, {"ok.jpg": b"1", "empty.jpg": b"", "large.jpg": b"x" * 101, "limit.jpg": b"y" * 100}
    )
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = {"gone.jpg": "not_found", "ok.jpg": "ok", "empty.jpg": "empty", "large.jpg": "too_large",
                "limit.jpg": "ok", "": "not_found", "pipe.jpg": "unsupported", "a\0b.jpg": "not_found",
                "x" * 300: "not_found"}  # fmt: skip
    results = fetch([ref_to(tmp_path / name) for name in expected], FetchOptions(max_bytes=100))
    assert codes(results) == list(expected.values())
    assert all(result.stage == "fetch" for result in results if isinstance(result, ImageError))


def test_a_file_that_may_not_be_read_is_denied(tmp_path, monkeypatch):
    make_folder(tmp_path, {"a.jpg": b"1", "b.jpg": b"2"})
    whole = os.open

    def guarded(path, flags):
        if str(path).endswith("a.jpg"):
            raise PermissionError(errno.EACCES, "not yours")
        return whole(path, flags)

    monkeypatch.setattr(reads.os, "open", guarded)
    assert codes(fetch([ref_to(tmp_path / "a.jpg"), ref_to(tmp_path / "b.jpg")])) == ["denied", "ok"]


def test_a_broken_machine_stops_the_job(monkeypatch, tmp_path):
    make_folder(tmp_path, PICTURES)
    refs, _ = listed(tmp_path)

    def broken(path, flags):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(reads.os, "open", broken)
    with pytest.raises(SystemicError, match="broken disk"):
        fetch(refs)


class TestParquetReads:
    def images(self, count: int) -> dict[str, list]:
        return {
            "id": list(range(count)),
            "image": [os.urandom(20_000) for _ in range(count)],
            "x": [b"x" * 999] * count,
        }

    def test_a_row_group_is_read_once_for_all_its_neighbours_even_in_later_calls(self, tmp_path):
        columns = self.images(100)
        raw = make_parquet(tmp_path / "x.parquet", columns, row_group=50).read_bytes()
        with counted({"once.parquet": raw}) as count:
            refs, _ = listed("counted://once.parquet")
            assert count["bytes"] < 200_000
            count.clear()
            assert [fetch([ref])[0] for ref in refs[:50]] == columns["image"][:50]
            assert 1_000_000 < count["bytes"] < 1_200_000
            assert fetch(refs[50:]) == columns["image"][50:]
            assert 2_000_000 < count["bytes"] < 2_300_000

    def test_a_file_written_anew_is_read_anew(self, tmp_path):
        path = make_parquet(tmp_path / "x.parquet", {"image": [b"old!"]})
        assert fetch(listed(path)[0]) == [b"old!"]
        os.utime(make_parquet(path, {"image": [b"new!"]}), ns=(1, 1))
        assert fetch(listed(path)[0]) == [b"new!"]


class TestLocations:
    @pytest.mark.parametrize("name", ["files", "x.zip", "x.tar", "x.parquet"])
    def test_what_a_row_remembers_finds_the_image_again(self, tmp_path, name):
        contents = {"a.jpg": b"1", "b::c#d.jpg": b"2", r"e\xe9&row=3.png": b"3"}
        make_folder(tmp_path / "files", contents)
        make_zip(tmp_path / "x.zip", contents)
        make_tar(tmp_path / "x.tar", contents)
        make_parquet(tmp_path / "x.parquet", {"id": list(contents), "image": list(contents.values())})
        refs, _ = listed(tmp_path / name)
        locations = [ref.location for ref in refs]
        assert fetch_locations(locations) == [contents[ref.image_id] for ref in refs]
        assert [fetch_locations([location])[0] for location in locations] == fetch_locations(locations)

    @given(
        member=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        path=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
            lambda text: "::" not in text and not text.startswith(":")
        ),
        kind=st.sampled_from(["zip", "tar"]),
    )
    def test_every_member_has_a_location_of_its_own(self, member, path, kind):
        # Neither side may lend a colon to the "::" between them: absolute paths and URLs begin with none.
        ref = ImageRef(member, path, "s", None, kind)
        found = parse_location(ref.location)
        assert (found.kind, found.image_id, found.uri) == (kind, member, path)


@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
    gap=st.integers(0, 2000),
    longest=st.integers(1, 8000),
)
def test_however_ranges_are_merged_each_image_gets_its_own_bytes(sizes, order, gap, longest):
    whole = os.urandom(sum(sizes))
    fsspec.filesystem("memory").pipe_file("/merge/x.tar", whole)
    begins = [sum(sizes[:i]) for i in range(len(sizes))]
    refs = [
        ImageRef(str(i), "memory:///merge/x.tar", "s", None, "tar", begin, size)
        for i, (begin, size) in enumerate(zip(begins, sizes, strict=True))
    ]
    order.shuffle(refs)
    before = fetching._GAP, fetching._LONGEST_READ
    fetching._GAP, fetching._LONGEST_READ = gap, longest
    try:
        assert fetch(refs) == [whole[ref.offset : ref.offset + ref.length] for ref in refs]
    finally:
        fetching._GAP, fetching._LONGEST_READ = before


def test_a_file_shorter_than_it_was_listed_is_truncated(tmp_path):
    make_folder(tmp_path, PICTURES)
    refs, _ = listed(tmp_path)
    os.truncate(refs[0].uri, 10)
    results = fetch(refs)
    assert codes(results) == ["truncated"] + ["ok"] * 5
    assert results[0].message == f"{refs[0].uri}: has 10 of 700 bytes"


def test_a_mistake_in_the_program_is_no_failure_of_an_image(monkeypatch):
    def buggy(self, path, **kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", buggy)
    with pytest.raises(KeyError):
        fetch([ref_to("memory://m/a.jpg")], QUICK)
