"""A server in front of a storage server that passes requests on, and meddles with those that it is told to."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from urllib.parse import urlsplit

from tests.builders.clouds.rest import JsonHandler, serving

LOSE_THE_ANSWER, HANG_UP = 0, -1
Heard = tuple[str, str, dict[str, str]]  # method, path, headers in lower case
Plan = Callable[[str, str], "int | float | None"]


def meddling(
    address: str, plan: Plan, without: str = "", retry_after: str = "", heard: list[Heard] | None = None
) -> AbstractContextManager[str]:
    """The address of a server in front of ``address``.

    ``plan`` is asked about each request's method and path: None passes it on, ``LOSE_THE_ANSWER`` passes it on and
    hangs up, ``HANG_UP`` hangs up at once, a status is the answer itself (with ``retry_after``), and a float so many
    seconds that the answer is late. The header ``without`` is not passed on. ``heard`` is told of every request.
    """

    class Handler(_Handler):
        target, decide, left_out = urlsplit(address).netloc, staticmethod(plan), {"expect", without.lower()}
        wait, told = retry_after, heard

    return serving(Handler)


class _Handler(JsonHandler):
    protocol_version = "HTTP/1.1"  # clients that ask before they send (Expect) get their answer
    target: str
    decide: Plan
    left_out: set[str]
    wait: str
    told: list[Heard] | None

    def _meddle(self) -> None:
        body = self.body()
        if self.told is not None:
            self.told.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        wanted = self.decide(self.command, self.path)
        if self.headers.get("Content-Range", "").endswith("/*") and wanted is not None and wanted < 100:
            wanted = HANG_UP  # fake-gcs-server takes a part that comes again for another one; Google's leaves it out
        if wanted == HANG_UP:
            self.close_connection = True
            return
        if isinstance(wanted, int) and wanted != LOSE_THE_ANSWER:
            self._refuse(wanted)
            return
        status, headers, data = self._pass_on(body)
        if wanted is not None:
            time.sleep(wanted)
            self.close_connection = True
            if wanted == LOSE_THE_ANSWER:
                return
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        with suppress(OSError):  # who asked has given up
            self.wfile.write(b"" if self.command == "HEAD" else data)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        if self.wait:
            self.send_header("Retry-After", self.wait)
        self.send_header("Content-Length", "0")
        self.end_headers()

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


class Weather:
    """A plan that meddles with a share of all requests, at random by ``seed``: refusals, connections cut, delays.

    ``seen`` counts requests, ``kinds`` what became of those that were meddled with.
    """

    def __init__(self, seed: int, share: float, late: float) -> None:
        self._draw, self._share, self._lock = random.Random(seed), share, threading.Lock()
        self._kinds: dict[str, int | float] = {
            "429": 429, "500": 500, "503": 503, "hung up": HANG_UP, "answer lost": LOSE_THE_ANSWER, "late": late,
        }  # fmt: skip
        self.seen, self.kinds = 0, Counter[str]()

    def __call__(self, method: str, path: str) -> int | float | None:
        with self._lock:
            self.seen += 1
            if self._draw.random() >= self._share:
                return None
            kind = self._draw.choices(list(self._kinds), [5, 5, 5, 5, 3, 1])[0]
            self.kinds[kind] += 1
            return self._kinds[kind]
