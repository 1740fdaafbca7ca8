"""What a list may name, and to whom credentials go."""

from __future__ import annotations

import json

import pytest

from captionbeam.pipelines.fetch import address_guard
from captionbeam.pipelines.fetch.byte_ranges import ByteRange, FetchOptions
from captionbeam.pipelines.fetch.reads import read_ranges
from captionbeam.pipelines.sources.images import fetch
from captionbeam.pipelines.sources.lists import ref_of
from captionbeam.pipelines.sources.spec import SourceSpec
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import options as storage_options
from tests.builders.data.sources import Web, listed, picture
from tests.builders.running.commands import captionbeam
from tests.builders.web.answers import OPEN, answering, fetched, is_denied, moved_to


def test_a_protocol_may_have_other_names():
    ref = ImageRef("a.jpg", "s3a://bucket/a.jpg", "memory://x", None)
    assert address_guard.refusal(ref, ()) is None
    assert address_guard.refusal(ref._replace(uri="abfs://c/a.jpg", source="az://c"), ()) is None
    assert address_guard.refusal(ref._replace(uri="abfs://c/a.jpg", source="gs://c"), ()) is not None


@pytest.fixture
def credentials():
    """Options for HTTP, in every place that has some; taken back afterwards."""
    before = dict(storage_options.current())
    secrets = {"headers": {"X-Key": "secret"}, "cookies": {"session": "secret"}}
    storage_options.use(
        {"http": {**secrets, "client_kwargs": {"headers": {"X-Other": "secret"}, "trust_env": False}}}
    )
    yield
    storage_options.use(before)


def sent_secrets(handler):
    return sorted(
        name for name in ("X-Key", "X-Other", "Cookie") if "secret" in (handler.headers.get(name) or "")
    )


def test_credentials_go_to_the_named_server_alone(credentials):
    heard = {}

    def hear(name, then=None):
        def answer(handler):
            heard[name] = sent_secrets(handler)
            if then:
                moved_to(then)(handler)
                return
            handler.send_response(200)
            handler.send_header("Content-Length", "1")
            handler.end_headers()
            handler.wfile.write(b"x")

        return answer

    with answering(hear("other")) as other, answering(hear("mine", f"{other}/b.jpg")) as mine:
        named = address_guard.origins([mine])
        for options in (FetchOptions(attempts=1, trusted=named, inside=address_guard.inside([mine, other])),
                        FetchOptions(attempts=1, trusted=named, allow_private=True)):  # fmt: skip
            heard.clear()
            assert fetched(f"{mine}/a.jpg", options) == b"x"
            assert heard == {"mine": ["Cookie", "X-Key", "X-Other"], "other": []}
        assert fetched(f"{other}/b.jpg", OPEN) == b"x"
        assert heard["other"] == []


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


def test_files_that_a_list_may_not_name_are_not_even_looked_for(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"123")
    (tmp_path / "empty.jpg").write_bytes(b"")
    spec = SourceSpec("gs://bucket/list.txt", "list", "gs://bucket/list.txt", "gs://bucket")
    for name in ("a.jpg", "empty.jpg"):
        ref = ref_of(str(tmp_path / name), name, spec, 1)
        assert (ref.version, ref.length) == (None, -1)
        assert is_denied(fetch([ref._replace(length=0)])[0])
    assert ref_of(str(tmp_path / "a.jpg"), "a", spec._replace(root=str(tmp_path)), 1).length == 3


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
