"""Fetching: bytes in order, each failure alone and rightly named, everything else raised."""

import errno
import os
import socket
import zipfile

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import cells, reads
from pipelines import fetch as fetching
from pipelines.fetch import fetch, fetch_location, fetch_locations, parse_location
from pipelines.spans import FetchOptions
from schemas.errors import ImageError, SourceError, SystemicError, is_transient
from schemas.records import ImageRef
from tests.builders.sources import (
    CountingFileSystem,
    Web,
    counted,
    distant,
    listed,
    make_folder,
    make_parquet,
    make_tar,
    make_zip,
    picture,
    zip_with_local_extra,
)

QUICK = FetchOptions(attempts=2, timeout=0.3, allow_private=True)
HERE = FetchOptions(allow_private=True)  # servers of tests are on this machine
PICTURES = {f"{name}.jpg": picture(name, 700) for name in "abcdef"}


def ref_to(uri: str, **fields) -> ImageRef:
    return ImageRef(str(uri), str(uri), str(uri), None, **fields)


def codes(results: list) -> list[str]:
    return [result.code if isinstance(result, ImageError) else "ok" for result in results]


def flip(path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 0xFF
    path.write_bytes(raw)


def test_nothing_asked_is_nothing_fetched():
    assert fetch([]) == []


def test_images_of_all_kinds_come_back_in_the_order_asked(tmp_path):
    make_folder(tmp_path / "files", PICTURES)
    make_zip(tmp_path / "x.zip", PICTURES, zipfile.ZIP_DEFLATED)
    make_tar(tmp_path / "x.tar", PICTURES)
    make_parquet(tmp_path / "x.parquet", {"id": list(PICTURES), "image": list(PICTURES.values())})
    found = [listed(tmp_path / name)[0] for name in ("files", "x.zip", "x.tar", "x.parquet")]
    mixed = [refs[i] for i in (5, 0, 3, 1, 4, 2) for refs in found]
    assert fetch(mixed) == [PICTURES[ref.image_id] for ref in mixed]


def test_the_same_image_may_be_asked_twice(tmp_path):
    refs, _ = listed(make_zip(tmp_path / "x.zip", PICTURES))
    assert fetch([refs[1], refs[1], refs[0]]) == [PICTURES["b.jpg"], PICTURES["b.jpg"], PICTURES["a.jpg"]]


def test_a_file_is_missing_empty_too_large_a_folder_or_no_file_and_the_others_come(tmp_path):
    make_folder(
        tmp_path, {"ok.jpg": b"123", "empty.jpg": b"", "large.jpg": b"x" * 101, "limit.jpg": b"y" * 100}
    )
    os.mkfifo(tmp_path / "pipe.jpg")
    names = [
        "gone.jpg",
        "ok.jpg",
        "empty.jpg",
        "large.jpg",
        "limit.jpg",
        "",
        "pipe.jpg",
        "a\0b.jpg",
        "x" * 300,
    ]
    results = fetch([ref_to(tmp_path / name) for name in names], FetchOptions(max_bytes=100))
    assert codes(results) == [
        "not_found", "ok", "empty", "too_large", "ok", "not_found", "unsupported", "not_found", "not_found",
    ]  # fmt: skip
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


def test_a_file_shorter_than_it_was_listed_is_truncated(tmp_path):
    make_folder(tmp_path, PICTURES)
    refs, _ = listed(tmp_path)
    os.truncate(refs[0].uri, 10)
    results = fetch(refs)
    assert codes(results) == ["truncated"] + ["ok"] * 5
    assert results[0].message == f"{refs[0].uri}: has 10 of 700 bytes"


def test_what_no_library_can_open_is_unsupported(tmp_path):
    refs = [ref_to("gopher://host/a.jpg"), ref_to("http://host:99999999/a.jpg"), ref_to("http://[bad/a.jpg")]
    assert codes(fetch(refs, QUICK)) == ["unsupported"] * 3


def test_any_filesystem_of_fsspec_serves():
    fsspec.filesystem("memory").pipe({"/m/a.jpg": b"123", "/m/empty.jpg": b""})
    refs = [ref_to(f"memory://m/{name}.jpg") for name in ("a", "empty", "gone")]
    assert codes(fetch(refs, QUICK)) == ["ok", "empty", "not_found"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_a_broken_machine_stops_the_job(monkeypatch, tmp_path, code):
    make_folder(tmp_path, PICTURES)
    refs, _ = listed(tmp_path)

    def broken(path, flags):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(reads.os, "open", broken)
    with pytest.raises(SystemicError, match=os.strerror(code)):
        fetch(refs)


def test_missing_credentials_stop_the_job(monkeypatch):
    from google.auth.exceptions import RefreshError

    def expired(self, path, **kwargs):
        raise RefreshError("token has expired")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", expired)
    with pytest.raises(SystemicError, match="token has expired"):
        fetch([ref_to("memory://m/a.jpg")], QUICK)


def test_a_mistake_in_the_program_is_no_failure_of_an_image(monkeypatch):
    def buggy(self, path, **kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", buggy)
    with pytest.raises(KeyError):
        fetch([ref_to("memory://m/a.jpg")], QUICK)


class TestWeb:
    def test_images_of_a_server_come_in_order(self):
        with Web(PICTURES, ranges=False) as web:
            refs = [ref_to(f"{web.url}/{name}") for name in reversed(PICTURES)]
            assert fetch(refs, QUICK) == list(reversed(PICTURES.values()))

    @pytest.mark.parametrize(
        ("status", "code", "tries"),
        [
            (404, "not_found", 1), (410, "not_found", 1), (401, "denied", 1), (403, "denied", 1),
            (400, "denied", 1), (408, "timeout", 2), (429, "unavailable", 2), (500, "unavailable", 2),
            (503, "unavailable", 2),
        ],
    )  # fmt: skip
    def test_each_status_has_its_code_and_only_passing_ones_are_tried_again(self, status, code, tries):
        with Web(PICTURES, ranges=True) as web:
            results = fetch([ref_to(f"{web.url}/status/{status}/a.jpg"), ref_to(f"{web.url}/b.jpg")], QUICK)
            assert codes(results) == [code, "ok"]
            assert web.requests[f"status/{status}/a.jpg"] == tries

    def test_a_server_that_recovers_costs_nothing_but_time(self):
        with Web(PICTURES, ranges=False) as web:
            refs = [ref_to(f"{web.url}/flaky/2/a.jpg"), ref_to(f"{web.url}/b.jpg")]
            assert codes(fetch(refs, FetchOptions(attempts=3, allow_private=True))) == ["ok", "ok"]
            assert web.requests["flaky/2/a.jpg"] == 3

    def test_a_body_that_breaks_off_is_the_networks_fault_and_is_done_again_by_the_next_run(self):
        with Web(PICTURES, ranges=False) as web:
            assert codes(fetch([ref_to(f"{web.url}/cut/a.jpg")], QUICK)) == ["unavailable"]
        assert is_transient("unavailable")

    def test_a_server_that_does_not_answer_in_time_is_a_timeout_and_holds_up_no_one(self):
        with Web(PICTURES, ranges=False) as web:
            refs = [ref_to(f"{web.url}/slow/a.jpg"), ref_to(f"{web.url}/b.jpg")]
            patient = FetchOptions(attempts=1, timeout=0.3, allow_private=True)
            assert codes(fetch(refs, patient)) == ["timeout", "ok"]

    def test_a_server_that_is_not_there_is_unavailable(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.jpg"
            assert codes(fetch([ref_to(url)], QUICK)) == ["unavailable"]

    def test_an_answer_that_is_too_long_is_not_downloaded(self):
        with Web({"a.jpg": b"x" * 30_000_000}, ranges=False) as web:
            assert codes(
                fetch([ref_to(f"{web.url}/a.jpg")], FetchOptions(max_bytes=1000, allow_private=True))
            ) == ["too_large"]
            assert codes(fetch([ref_to(f"{web.url}/a.jpg")], HERE)) == ["ok"]

    def test_members_of_an_archive_come_by_byte_ranges(self, tmp_path):
        contents = {f"{i}.jpg": os.urandom(200_000) for i in range(40)}
        archive = make_zip(tmp_path / "x.zip", contents).read_bytes()
        with Web({"x.zip": archive}, ranges=True) as web:
            refs, _ = listed(f"{web.url}/x.zip")
            assert fetch([refs[3], refs[30]]) == [contents["3.jpg"], contents["30.jpg"]]
            assert web.bytes_sent < 1_000_000
            assert fetch(refs) == list(contents.values())

    def test_a_tar_and_a_parquet_file_on_a_server_are_read_too(self, tmp_path):
        tar = make_tar(tmp_path / "x.tar", PICTURES).read_bytes()
        parquet = make_parquet(tmp_path / "x.parquet", {"image": list(PICTURES.values())}).read_bytes()
        with Web(
            {"x.tar": tar, "x.parquet": parquet, "x.csv": b"url\na.jpg\n", **PICTURES}, ranges=True
        ) as web:
            for name in ("x.tar", "x.parquet"):
                assert fetch(listed(f"{web.url}/{name}")[0], HERE) == list(PICTURES.values())
            (ref,) = listed(f"{web.url}/x.csv")[0]
            assert (ref.uri, fetch([ref], HERE)) == (f"{web.url}/a.jpg", [PICTURES["a.jpg"]])

    def test_a_server_that_recovers_is_listed(self, tmp_path):
        archive = make_zip(tmp_path / "x.zip", PICTURES).read_bytes()
        with Web({"x.zip": archive}, ranges=True) as web:
            refs, _ = listed(f"{web.url}/flaky/3/x.zip")
            assert fetch(refs) == list(PICTURES.values())

    def test_a_server_without_ranges_is_refused_for_archives(self, tmp_path):
        archive = make_zip(tmp_path / "x.zip", PICTURES).read_bytes()
        with Web({"x.zip": archive}, ranges=False) as web:
            with pytest.raises(SourceError, match="its server sends no byte ranges; expected one that does"):
                listed(f"{web.url}/x.zip")
            with pytest.raises(SourceError, match="no byte ranges"):
                fetch([ImageRef("a.jpg", f"{web.url}/x.zip", "s", "0-700", "zip", 0, 700, 0, 700)])

    def test_a_missing_address_is_refused_at_once_with_its_reason(self):
        with Web({}, ranges=True) as web:
            with pytest.raises(SourceError, match=r"/status/403/x\.zip' cannot be read \(denied\)"):
                listed(f"{web.url}/status/403/x.zip")
            with pytest.raises(SourceError, match=r"/x\.zip' cannot be read \(not_found\)"):
                listed(f"{web.url}/x.zip")


class TestObjectStores:
    def test_reads_go_side_by_side_but_no_more_than_allowed(self):
        contents = {f"side/{i}.jpg": picture(str(i)) for i in range(40)}
        with distant(contents, delay=0.05) as filesystem:
            results = fetch([ref_to(f"distant://{name}") for name in contents], FetchOptions(connections=10))
            assert results == list(contents.values())
            assert filesystem.busiest == 10

    def test_waiting_for_a_turn_is_no_timeout(self):
        contents = {f"turn/{i}.jpg": picture(str(i)) for i in range(8)}
        with distant(contents, delay=0.1):
            refs = [ref_to(f"distant://{name}") for name in contents]
            assert codes(fetch(refs, FetchOptions(connections=1, timeout=0.3, attempts=1))) == ["ok"] * 8

    def test_passing_errors_are_tried_again_and_lasting_ones_are_not(self):
        contents = {f"try/{name}.jpg": picture(name) for name in "abc"}
        with distant(contents) as filesystem:
            filesystem.errors["try/a.jpg"] = [ConnectionResetError("reset"), TimeoutError()]
            filesystem.errors["try/b.jpg"] = [ConnectionResetError("reset")] * 3
            filesystem.errors["try/c.jpg"] = [PermissionError("no")]
            results = fetch([ref_to(f"distant://{name}") for name in contents], FetchOptions(attempts=3))
        assert codes(results) == ["ok", "unavailable", "denied"]
        assert results[1].message == "distant://try/b.jpg: reset"

    def test_members_that_share_a_read_share_its_passing_failure(self, tmp_path):
        archive = make_zip(tmp_path / "x.zip", PICTURES)
        refs = [ref._replace(uri="distant://share/x.zip") for ref in listed(archive)[0]]
        with distant({"share/x.zip": archive.read_bytes()}) as filesystem:
            filesystem.errors["share/x.zip"] = [TimeoutError("slow")] * 2
            assert codes(fetch(refs, QUICK)) == ["timeout"] * 6
            assert fetch(refs, QUICK) == list(PICTURES.values())

    def test_expired_credentials_stop_the_job_whatever_else_is_under_way(self):
        from google.auth.exceptions import RefreshError

        contents = {f"cred/{name}.jpg": picture(name) for name in "ab"}
        with distant(contents) as filesystem:
            filesystem.errors["cred/b.jpg"] = [RefreshError("token has expired")]
            with pytest.raises(
                SystemicError, match=r"'distant://cred/b\.jpg' cannot be read: token has expired"
            ):
                fetch([ref_to(f"distant://{name}") for name in contents])


class TestDamagedArchives:
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_a_flipped_bit_costs_its_member_alone(self, tmp_path, method):
        path = make_zip(tmp_path / "x.zip", {"a.jpg": os.urandom(500), "b.jpg": os.urandom(500)}, method)
        refs, _ = listed(path)
        flip(path, refs[0].offset + 100)
        assert codes(fetch(refs)) == ["decode", "ok"]

    def test_a_member_that_does_not_begin_where_the_directory_says_fails_alone(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", PICTURES)
        refs, _ = listed(path)
        flip(path, refs[2].offset)
        assert codes(fetch(refs)) == ["ok", "ok", "decode", "ok", "ok", "ok"]

    def test_members_beyond_a_cut_are_truncated(self, tmp_path):
        for path in (make_zip(tmp_path / "x.zip", PICTURES), make_tar(tmp_path / "x.tar", PICTURES)):
            refs, _ = listed(path)
            os.truncate(path, refs[4].offset + 200)
            assert codes(fetch(refs)) == ["ok"] * 4 + ["truncated"] * 2

    def test_a_deflated_stream_that_stops_early_is_truncated(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", {"a.jpg": os.urandom(5000)}, zipfile.ZIP_DEFLATED)
        (ref,) = listed(path)[0]
        assert codes(fetch([ref._replace(length=ref.length - 100)])) == ["truncated"]

    def test_a_bomb_is_not_inflated_beyond_what_the_directory_declares(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", {"a.jpg": b"\0" * 50_000_000}, zipfile.ZIP_DEFLATED)
        (ref,) = listed(path)[0]
        honest, lying = fetch([ref, ref._replace(size=1000)], FetchOptions(max_bytes=1_000_000))
        assert (honest.code, lying.code) == ("too_large", "decode")
        assert lying.message.endswith("holds 1001 bytes, not 1000 as the archive says")

    def test_a_local_header_longer_than_any_guess_is_read_a_second_time(self, tmp_path):
        data = os.urandom(3000)
        refs, _ = listed(zip_with_local_extra(tmp_path / "x.zip", "a.jpg", data, extra=60_000))
        assert fetch(refs) == [data]

    def test_an_empty_member_is_empty(self, tmp_path):
        for path in (
            make_zip(tmp_path / "x.zip", {"a.jpg": b""}),
            make_tar(tmp_path / "x.tar", {"a.jpg": b""}),
        ):
            assert codes(fetch(listed(path)[0])) == ["empty"]

    @pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.parquet"])
    def test_a_container_that_is_gone_stops_the_job(self, tmp_path, name):
        make_zip(tmp_path / "x.zip", PICTURES)
        make_tar(tmp_path / "x.tar", PICTURES)
        make_parquet(tmp_path / "x.parquet", {"image": list(PICTURES.values())})
        refs, _ = listed(tmp_path / name)
        (tmp_path / name).unlink()
        with pytest.raises(SourceError, match=rf"{name}' cannot be read \(not_found\)"):
            fetch(refs)

    def test_damaged_pages_cost_their_row_group_alone(self, tmp_path):
        path = make_parquet(tmp_path / "x.parquet", {"image": list(PICTURES.values())}, row_group=2)
        refs, _ = listed(path)
        for offset in range(6, 30):
            flip(path, offset)
        refs = [ref._replace(version=f"damaged:{i}") for i, ref in enumerate(refs)]
        assert codes(fetch(refs)) == ["decode", "decode", "ok", "ok", "ok", "ok"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> list:
    root = tmp_path_factory.mktemp("archives")
    return [
        make_zip(root / "stored.zip", PICTURES),
        make_zip(root / "deflated.zip", PICTURES, zipfile.ZIP_DEFLATED),
        make_tar(root / "x.tar", PICTURES),
        make_parquet(root / "x.parquet", {"id": list(PICTURES), "image": list(PICTURES.values())}),
    ]


@given(data=st.data())
def test_no_damage_is_worse_than_a_refused_source_or_failed_images(archives, data):
    path = data.draw(st.sampled_from(archives))
    raw = bytearray(path.read_bytes())
    places = st.integers(0, len(raw) - 1)
    for place, bits in data.draw(st.lists(st.tuples(places, st.integers(1, 255)), max_size=4)):
        raw[place] ^= bits
    damaged = path.with_name(f"damaged-{path.name}")
    damaged.write_bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))])
    try:
        refs, _ = listed(damaged)
        results = fetch(refs)
    except SourceError:
        return
    if path.suffix == ".zip":  # the only kind that carries checksums
        assert {result for result in results if isinstance(result, bytes)} <= set(PICTURES.values())


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

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (TimeoutError("slow"), "timeout"),
            (OSError(errno.EIO, "broken"), SystemicError),
            (KeyError("bug"), KeyError),
        ],
    )
    def test_errors_under_a_read_keep_their_meaning(self, tmp_path, monkeypatch, error, expected):
        raw = make_parquet(tmp_path / "x.parquet", self.images(4)).read_bytes()

        def fail(self, path, **kwargs):
            raise error

        with counted({"fails.parquet": raw}) as count:
            refs, _ = listed("counted://fails.parquet")
            monkeypatch.setattr(CountingFileSystem, "cat_file", fail)
            if isinstance(expected, str):
                assert codes(fetch(refs, QUICK)) == [expected] * 4
            else:
                with pytest.raises(expected):
                    fetch(refs, QUICK)
            assert count["bytes"] > 0

    def test_what_is_kept_has_a_limit_and_the_oldest_goes_first(self, tmp_path):
        kept = cells._Columns(limit=50_000)
        groups = [cells._Group("u", "v", i, "image") for i in range(4)]
        columns = [cells.pa.chunked_array([[os.urandom(20_000)]]) for _ in groups]
        for group, column in zip(groups[:3], columns, strict=False):
            kept.put(group, column)
        assert [kept.get(group) is not None for group in groups] == [False, True, True, False]
        kept.put(groups[3], cells.pa.chunked_array([[os.urandom(60_000)]]))
        assert kept.get(groups[3]) is None

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
        assert [fetch_location(location) for location in locations] == fetch_locations(locations)

    def test_what_is_not_there_any_more_is_a_failure_each(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", PICTURES)
        locations = [f"zip://a.jpg::{path}", f"zip://z.jpg::{path}", "tar://a.jpg::/gone.tar", "/gone.jpg"]
        assert codes(fetch_locations(locations)) == ["ok", "not_found", "not_found", "not_found"]
        with pytest.raises(ImageError, match=r"z\.jpg"):
            fetch_location(locations[1])

    def test_a_plain_path_or_url_is_a_location(self, tmp_path, monkeypatch):
        make_folder(tmp_path, {"one.jpg": b"123"})
        monkeypatch.chdir(tmp_path)
        assert fetch_location("one.jpg") == b"123"

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
        path=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(lambda text: "/" + text),
        group=st.integers(0, 10**6),
        row=st.integers(0, 10**6),
        column=st.text(st.characters(exclude_characters="#", exclude_categories=["Cs"]), min_size=1),
    )
    def test_every_row_of_parquet_has_a_location_of_its_own(self, path, group, row, column):
        ref = ImageRef("id", path, "s", None, "parquet", group, row, column=column)
        found = parse_location(ref.location)
        assert (found.kind, found.uri, found.offset, found.length, found.column) == (
            "parquet", path, group, row, column,
        )  # fmt: skip


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
