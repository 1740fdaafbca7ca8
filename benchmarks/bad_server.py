"""A web server of a folder that refuses, cuts off or stalls a third of its answers, each file's first few."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STALL = 3.0  # seconds


@contextmanager
def serve(folder: Path, seed: int) -> Iterator[str]:
    """The server's address, while it runs."""
    draw, lock = random.Random(seed), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                fate = draw.choice(["refuse", "cut", "stall", "", "", "", "", "", ""])
            path = folder / self.path.strip("/")
            if not path.is_file():
                self.send_error(404)
                return
            if fate == "refuse":
                self.send_error(503)
                return
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if fate == "stall":
                time.sleep(STALL)
            self.wfile.write(data[: len(data) // 2] if fate == "cut" else data)

        def log_message(self, *_: object) -> None:
            """Nothing: a failing server would say a lot."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
