"""A web server that answers as a test wants it to, and one fetch from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from captionbeam.pipelines.fetch import address_guard
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.pipelines.sources.images import fetch
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.records import ImageRef

ONCE = FetchOptions(attempts=1, timeout=5)
OPEN = FetchOptions(attempts=1, timeout=5, allow_private=True)


@contextmanager
def answering(answer) -> Iterator[str]:
    """A server that leaves each GET to ``answer(handler)``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


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
