"""A web server that answers as a test wants it to, and one fetch from it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from captionbeam.pipelines.fetch import address_guard
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.pipelines.sources.images import fetch
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.records import ImageRef
from tests.builders.clouds.rest import JsonHandler, serving

ONCE = FetchOptions(attempts=1, timeout=5)
OPEN = FetchOptions(attempts=1, timeout=5, allow_private=True)


def answering(answer) -> AbstractContextManager[str]:
    """A server that leaves each GET to ``answer(handler)``."""
    return serving(type("Handler", (JsonHandler,), {"do_GET": answer}))


def moved_to(target):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", target(handler) if callable(target) else target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def fetched(uri, options=ONCE, source="list.txt"):
    return fetch([ImageRef(uri, uri, source, None)], options)[0]


def is_denied(result):
    return isinstance(result, ImageError) and result.code == "denied" and address_guard.HOW in result.message
