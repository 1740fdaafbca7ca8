"""An S3 server of its own process: ``python s3_server.py PORT``.

moto looks whether a key is there and then writes it; a server that keeps ``If-None-Match`` does both at once. So
requests come in one at a time.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple


class Quiet(WSGIRequestHandler):
    """Says nothing of its requests."""

    def log(self, *_: Any) -> None: ...


def one_at_a_time(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """``app``, in which no request overtakes another."""
    lock = threading.Lock()

    def call(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with lock:
            return list(app(environ, start))

    return call


if __name__ == "__main__":
    served = one_at_a_time(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), served, threaded=True, request_handler=Quiet)
