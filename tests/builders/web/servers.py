"""Real storage servers as processes of their own: Google Cloud Storage (fake-gcs-server) and S3 (moto).

``gcs``, ``s3`` and ``bucket`` (both, one after the other) give a test a ``Bucket`` that nobody else has, and this
process, and those that it starts, the environment that leads to its server. The servers serve a whole session.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import fsspec
import pytest

from captionbeam.schemas.storage import files
from tests.builders.running.cached import cached
from tests.builders.web.fetched import fetch, need

FAKE_GCS = "github.com/fsouza/fake-gcs-server"
FAKE_GCS_VERSION = "v1.56.1"
STARTS = 3
SECONDS_TO_START = 60


class Server(NamedTuple):
    """A running server: the URLs' protocol, its address, and the environment that leads to it."""

    protocol: str
    address: str
    environment: Mapping[str, str]


class Bucket(NamedTuple):
    """An empty bucket: ``gs://<name>`` or ``s3://<name>``, and the server that holds it."""

    url: str
    server: Server


def fake_gcs_server() -> Path:
    """The server's binary, built the first time (minutes); skips the test where Go is missing."""

    def build(folder: Path) -> None:
        install = [need("go", "GCS server"), "install", f"{FAKE_GCS}@{FAKE_GCS_VERSION}"]
        fetch(install, "GCS server", GOBIN=str(folder))

    return cached(f"fake-gcs-server-{FAKE_GCS_VERSION}", build) / "fake-gcs-server"


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(command: list[str], path: str) -> Iterator[str]:
    """Run ``command``, with its ``{port}`` filled in, until the block ends; gives its address once ``path`` answers."""
    for _ in range(STARTS):
        port = free_port()
        server = subprocess.Popen(
            [part.format(port=port) for part in command],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if _answers(server, f"http://127.0.0.1:{port}{path}"):
                yield f"http://127.0.0.1:{port}"
                return
        finally:
            server.kill()
            server.wait()
    raise RuntimeError(f"{command[0]} did not start in {STARTS} tries; expected an answer at {path}")


def _answers(server: subprocess.Popen, url: str) -> bool:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except OSError:
            time.sleep(0.05)
    return False


@contextmanager
def gcs_serving() -> Iterator[Server]:
    """A GCS server, until the block ends."""
    command = [str(fake_gcs_server()), "-scheme", "http", "-host", "127.0.0.1", "-port", "{port}",
               "-backend", "memory", "-public-host", "127.0.0.1:{port}",
               "-external-url", "http://127.0.0.1:{port}"]  # fmt: skip
    with serving(command, "/storage/v1/b") as address:
        yield Server("gs", address, {"STORAGE_EMULATOR_HOST": address, "FSSPEC_GS_TOKEN": "anon"})


@contextmanager
def s3_serving() -> Iterator[Server]:
    """An S3 server, until the block ends."""
    command = [sys.executable, str(Path(__file__).with_name("s3_server.py")), "{port}"]
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with serving(command, "/") as address:
        own = {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1", **credentials}
        yield Server("s3", address, own)


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[Server]:
    """A GCS server for the session."""
    with gcs_serving() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """An S3 server for the session."""
    with s3_serving() as server:
        yield server


@pytest.fixture
def gcs(gcs_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket on the GCS server."""
    with _bucket(gcs_server, monkeypatch) as made:
        yield made


@pytest.fixture
def s3(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket on the S3 server."""
    with _bucket(s3_server, monkeypatch) as made:
        yield made


@pytest.fixture(params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """An empty bucket on each of the two, one after the other."""
    return request.getfixturevalue({"gs": "gcs", "s3": "s3"}[request.param])


@contextmanager
def _bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex[:12]}"
    make_bucket(server, name)
    try:
        yield Bucket(f"{server.protocol}://{name}", server)
    finally:  # what is opened later must not lead to this server
        fsspec.get_filesystem_class(server.protocol).clear_instance_cache()


def make_bucket(server: Server, name: str) -> None:
    """An empty bucket."""
    if server.protocol == "gs":
        request = urllib.request.Request(
            f"{server.address}/storage/v1/b?project=test",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
    else:
        request = urllib.request.Request(f"{server.address}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        pass


def upload(folder: str, url: str) -> None:
    """Copies every file below the local ``folder`` to the same place below ``url``."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            files.copy_file(str(path), files.join(url, path.relative_to(folder).as_posix()))
