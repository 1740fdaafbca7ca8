"""Credentials go to the server that was named, and answers are what was asked for."""

from __future__ import annotations

import json

import pytest

from captionbeam.pipelines.fetch.byte_ranges import ByteRange
from captionbeam.pipelines.fetch.images import fetch
from captionbeam.pipelines.fetch.reads import read_ranges
from captionbeam.pipelines.sources.lists import ref_of
from captionbeam.pipelines.sources.spec import SourceSpec
from captionbeam.schemas.errors import SourceError
from tests.builders.answers import OPEN, answering, fetched, is_denied
from tests.builders.commands import captionbeam
from tests.builders.sources import Web, listed, picture


@pytest.mark.parametrize("said", ["bytes 0-9/100", ""])
def test_another_range_than_was_asked_for_is_not_taken(said):
    def answer(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", said)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"0123456789")

    with answering(answer) as url:
        with pytest.raises(SourceError, match=f"sends the range '{said}'; expected bytes from 10"):
            read_ranges([ByteRange(f"{url}/x.zip", 10, 20)], OPEN)
        if not said:
            assert fetched(f"{url}/a.jpg", OPEN).code == "unsupported"


def test_an_answer_that_is_no_http_may_pass():
    def answer(handler):
        handler.wfile.write(b"NONSENSE\r\n\r\n")

    with answering(answer) as url:
        assert fetched(f"{url}/a.jpg", OPEN).code == "unavailable"


def test_files_that_a_list_may_not_name_are_not_even_looked_for(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"123")
    (tmp_path / "empty.jpg").write_bytes(b"")
    spec = SourceSpec("gs://bucket/list.txt", "list", "gs://bucket/list.txt", "gs://bucket")
    for name in ("a.jpg", "empty.jpg"):
        ref = ref_of(str(tmp_path / name), name, spec)
        assert (ref.version, ref.length) == (None, -1)
        assert is_denied(fetch([ref._replace(length=0)])[0])
    assert ref_of(str(tmp_path / "a.jpg"), "a", spec._replace(root=str(tmp_path))).length == 3


def test_a_coco_file_sends_nobody_anywhere_before_the_job_begins(tmp_path):
    """Its URIs are a stranger's: they are read by workers, within the limits. What is below the root is looked for."""
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        entries = [{"id": n, "file_name": f"{web.url}/{n}.jpg"} for n in range(8)]
        (tmp_path / "c.json").write_text(json.dumps({"images": entries}))
        assert len(listed(tmp_path / "c.json")[0]) == 8
        assert not web.requests
    entries.append({"id": 9, "file_name": "gone.jpg"})
    (tmp_path / "c.json").write_text(json.dumps({"images": entries[1:]}))
    with pytest.raises(SourceError, match=r"names images like '.*/gone.jpg', which is not there"):
        listed(tmp_path / "c.json")


def test_from_the_command_line(tmp_path):
    """A row of failure with what to do about it; with the flag, a row. The list's own server needs no flag."""
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        (tmp_path / "list.txt").write_text(f"{web.url}/a.jpg\n")
        command = ["encode", tmp_path / "list.txt", "--encoder", "efficientnet_lite0", "--precision", "fp32"]
        captionbeam(*command, "--output", tmp_path / "a", status=3)
        said = captionbeam("store", "failures", tmp_path / "a").stdout
        assert "denied" in said
        assert "--allow-private-addresses" in said
        captionbeam(*command, "--output", tmp_path / "b", "--allow-private-addresses", status=3)
        assert "decode" in captionbeam("store", "failures", tmp_path / "b").stdout
