"""What emulators of web services share: JSON in and out, a server until a block ends, credentials of nobody."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


class JsonHandler(BaseHTTPRequestHandler):
    """Requests and answers are JSON, and nothing is logged."""

    def body(self) -> bytes:
        """What came with the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, value: Any) -> None:
        """Send ``value``."""
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server of this process, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@functools.cache
def _private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def service_account(folder: Path, token_uri: str = "http://127.0.0.1:9/token") -> str:
    """The path of a key file, in ``folder``, of a Google service account of ``a-project`` that is nobody's."""
    facts = {"type": "service_account", "project_id": "a-project", "private_key_id": "nobody",
             "private_key": _private_key(), "client_email": "nobody@a-project.iam.gserviceaccount.com",
             "client_id": "1", "token_uri": token_uri}  # fmt: skip
    path = folder / "service-account.json"
    path.write_text(json.dumps(facts))
    return str(path)
