"""What a list may name: which protocols, which files, whose machine."""

from __future__ import annotations

import pytest

from captionbeam.pipelines.fetch import address_guard
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import options as storage_options
from tests.builders.answers import OPEN, answering, fetched, moved_to


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
