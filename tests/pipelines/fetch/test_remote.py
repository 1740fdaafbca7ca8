"""Images that lie elsewhere: web servers and object stores, what they answer and how often they are asked."""

import os

import pytest

from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.pipelines.sources.images import fetch
from captionbeam.schemas.errors import SourceError, SystemicError, is_transient
from captionbeam.schemas.records import ImageRef
from tests.builders.data.sources import (
    Web,
    codes,
    distant,
    listed,
    make_parquet,
    make_tar,
    make_zip,
    picture,
    ref_to,
)

QUICK = FetchOptions(attempts=2, timeout=0.3, allow_private=True)
HERE = FetchOptions(allow_private=True)  # servers of tests are on this machine
PICTURES = {f"{name}.jpg": picture(name, 700) for name in "abcdef"}


class TestWeb:
    @pytest.mark.parametrize(
        ("status", "code", "tries"),
        [(410, "not_found", 1), (401, "denied", 1), (408, "timeout", 2), (503, "unavailable", 2)],
    )
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

    def test_a_server_that_gives_head_no_length_is_asked_by_get(self, tmp_path):
        archive = make_zip(tmp_path / "x.zip", PICTURES).read_bytes()
        table = make_parquet(tmp_path / "x.parquet", {"image": list(PICTURES.values())}).read_bytes()
        contents = {"x.zip": archive, "x.tar": make_tar(tmp_path / "x.tar", PICTURES).read_bytes(),
                    "x.parquet": table, "x.txt": b"a.jpg\n", "a.jpg": PICTURES["a.jpg"], "empty.jpg": b""}  # fmt: skip
        with Web(contents, ranges=True, heads=False) as web:
            for name, pictures in {"x.zip": PICTURES, "x.tar": PICTURES, "x.parquet": PICTURES,
                                   "x.txt": ["a.jpg"], "a.jpg": ["a.jpg"]}.items():  # fmt: skip
                refs, _ = listed(f"{web.url}/{name}")
                assert fetch(refs, HERE) == [PICTURES[picture] for picture in pictures]
            assert codes(fetch(listed(f"{web.url}/empty.jpg")[0], HERE)) == ["empty"]

    def test_a_server_that_does_not_answer_in_time_is_a_timeout_and_holds_up_no_one(self):
        with Web(PICTURES, ranges=False) as web:
            refs = [ref_to(f"{web.url}/slow/a.jpg"), ref_to(f"{web.url}/b.jpg")]
            patient = FetchOptions(attempts=1, timeout=0.3, allow_private=True)
            assert codes(fetch(refs, patient)) == ["timeout", "ok"]

    def test_members_of_an_archive_come_by_byte_ranges(self, tmp_path):
        contents = {f"{i}.jpg": os.urandom(200_000) for i in range(40)}
        archive = make_zip(tmp_path / "x.zip", contents).read_bytes()
        with Web({"x.zip": archive}, ranges=True) as web:
            refs, _ = listed(f"{web.url}/x.zip")
            assert fetch([refs[3], refs[30]]) == [contents["3.jpg"], contents["30.jpg"]]
            assert web.bytes_sent < 1_000_000
            assert fetch(refs) == list(contents.values())

    def test_a_server_without_ranges_is_refused_for_archives(self, tmp_path):
        archive = make_zip(tmp_path / "x.zip", PICTURES).read_bytes()
        with Web({"x.zip": archive}, ranges=False) as web:
            with pytest.raises(SourceError, match="its server sends no byte ranges; expected one that does"):
                listed(f"{web.url}/x.zip")
            with pytest.raises(SourceError, match="no byte ranges"):
                fetch([ImageRef("a.jpg", f"{web.url}/x.zip", "s", "0-700", "zip", 0, 700, 0, 700)])


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

    def test_expired_credentials_stop_the_job_whatever_else_is_under_way(self):
        from google.auth.exceptions import RefreshError

        contents = {f"cred/{name}.jpg": picture(name) for name in "ab"}
        with distant(contents) as filesystem:
            filesystem.errors["cred/b.jpg"] = [RefreshError("token has expired")]
            with pytest.raises(
                SystemicError, match=r"'distant://cred/b\.jpg' cannot be read: token has expired"
            ):
                fetch([ref_to(f"distant://{name}") for name in contents])


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://x", "hf://x: Repository id must be 'namespace/name', got 'x'."),
        ("nowhere://x", "nowhere://x: 'nowhere://x' cannot be opened: Protocol not known: nowhere"),
    ],
)
def test_a_uri_that_its_filesystem_does_not_understand_is_a_failure_of_its_image(uri, message):
    with distant({"odd/a.jpg": b"1", "odd/b.jpg": b"22"}):
        names = ("distant://odd/a.jpg", uri, "memory://odd/b.jpg")
        before, failure, after = fetch([ref_to(name) for name in names], HERE)
    assert (before, failure.code, failure.stage, after) == (b"1", "unsupported", "fetch", b"22")
    assert failure.message.startswith(message)


def test_a_body_that_breaks_off_is_the_networks_fault_and_is_done_again_by_the_next_run():
    with Web(PICTURES, ranges=False) as web:
        assert codes(fetch([ref_to(f"{web.url}/cut/a.jpg")], QUICK)) == ["unavailable"]
    assert is_transient("unavailable")


def test_members_that_share_a_read_share_its_passing_failure(tmp_path):
    archive = make_zip(tmp_path / "x.zip", PICTURES)
    refs = [ref._replace(uri="distant://share/x.zip") for ref in listed(archive)[0]]
    with distant({"share/x.zip": archive.read_bytes()}) as filesystem:
        filesystem.errors["share/x.zip"] = [TimeoutError("slow")] * 2
        assert codes(fetch(refs, QUICK)) == ["timeout"] * 6
        assert fetch(refs, QUICK) == list(PICTURES.values())
