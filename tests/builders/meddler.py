"""A server in front of a storage server that passes requests on, and meddles with those that it is told to."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LOSE_THE_ANSWER = 0
Plan = Callable[[str, str], "int | None"]


@contextmanager
def meddling(address: str, plan: Plan, without: str = "") -> Iterator[str]:
    """The address of a server in front of ``address``.

    ``plan`` is asked about each request's method and path: None passes it on, ``LOSE_THE_ANSWER`` passes it on and
    hangs up, and a status is the answer itself. The header ``without`` is not passed on.
    """

    class Handler(_Handler):
        target, decide, left_out = urlsplit(address).netloc, staticmethod(plan), {"expect", without.lower()}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # clients that ask before they send (Expect) get their answer
    target: str
    decide: Plan
    left_out: set[str]

    def log_message(self, *_: Any) -> None: ...

    def _meddle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        wanted = self.decide(self.command, self.path)
        if wanted:
            self.send_error(wanted)
            return
        status, headers, data = self._pass_on(body)
        if wanted == LOSE_THE_ANSWER:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else data)

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        onward = http.client.HTTPConnection(self.target, timeout=30)
        try:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in self.left_out
            }
            onward.request(self.command, self.path, body, headers)
            answer = onward.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            onward.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _meddle  # noqa: N815 (names that the library calls)
