"""The server from the point of view of a process that uses it."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from captionbeam.pipelines.endpoints.servers import supervisor
from captionbeam.pipelines.endpoints.servers.folder import Lease, ServerFolder, healthy
from captionbeam.schemas.errors import RequestError, SystemicError

POLL_SECONDS = 0.2
NOTICE_SECONDS = 10.0  # of waiting without a word
INSTALL = {"vllm": "pip install vllm", "sglang": "pip install 'sglang[all]'",
           "transformers": "pip install 'transformers[serving]'"}  # fmt: skip

_log = logging.getLogger(__name__)


class Server:
    """The machine's server for ``command``. A context manager; the last process that leaves it stops the server.

    ``command``: how to start it, without a shell, with ``{port}``, ``{model}`` and ``{name}`` in it. ``model``: what
    it loads, a folder or a name at Hugging Face. ``name``: the model's in requests. ``start_timeout``: seconds until it
    must be ready.
    Raises RequestError for a wrong command, SystemicError if the server does not start. Threads may share it.
    """

    def __init__(self, command: str, model: str, name: str, start_timeout: float) -> None:
        self._words = server_words(command, model, name)
        self._start_timeout = start_timeout
        self._turn = threading.Lock()
        self._lease: Lease | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The base URL of its API, such as ``http://127.0.0.1:8000/v1``. Another one may follow a restart."""
        return self._url

    def __enter__(self) -> Self:
        self._folder = ServerFolder.of(self._words)
        self._lease = self._folder.lease()
        try:
            self.wait_until_healthy()
        except BaseException:  # Ctrl-C too: leaves the server and raises again
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._lease is not None:
            self._lease.release()
        self._lease = None

    def wait_until_healthy(self) -> str:
        """Waits until the server answers, which it does soon if it runs, and returns its URL.

        Raises SystemicError after ``start_timeout`` seconds, or if the server cannot be started.
        """
        notice = time.monotonic() + NOTICE_SECONDS
        deadline = time.monotonic() + self._start_timeout
        with self._turn:
            while not self._is_healthy():
                if time.monotonic() > deadline:
                    raise SystemicError(
                        f"the server {self._said} is not ready after {self._start_timeout:g} s; its log "
                        f"({self._folder.log}) ends: {self._folder.last_lines(1)}"
                    )
                if time.monotonic() > notice:
                    notice = float("inf")
                    how_long, log = self._start_timeout, self._folder.log
                    _log.warning(
                        "the server %s is not ready yet; trying for %g s; its log: %s",
                        self._said,
                        how_long,
                        log,
                    )
                time.sleep(POLL_SECONDS)
            return self._url

    def _is_healthy(self) -> bool:
        if self._lease is None:
            raise SystemicError(
                f"the server {self._said} is used after its end; expected to be inside its block"
            )
        descriptor = self._folder.lock_supervisor()
        if descriptor is not None:
            self._supervise(descriptor)
        state = self._folder.state()
        if self._lease.name in state.leases:
            raise SystemicError(f"the server {self._said} {state.error}")
        if not state.url or not healthy(urlsplit(state.url).port or 0):
            return False
        self._url = state.url
        return True

    def _supervise(self, descriptor: int) -> None:
        """Starts a supervisor, which inherits the lock ``descriptor``."""
        try:
            self._folder.forget()
            words = [_program(self._words[0]), *self._words[1:]]
            self._folder.log.write_bytes(b"")
            with self._folder.log.open("ab") as log:
                subprocess.run(
                    [sys.executable, "-m", supervisor.__name__, str(self._folder.path), str(descriptor), *words],
                    pass_fds=[descriptor], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True,
                )  # fmt: skip
        except subprocess.CalledProcessError as err:
            raise SystemicError(
                f"the server {self._said} has no supervisor; its log ends: {self._folder.last_lines(1)}"
            ) from err
        finally:
            os.close(descriptor)

    @property
    def _said(self) -> str:
        return repr(shlex.join(self._words))


def server_words(command: str, model: str, name: str) -> list[str]:
    """Returns the words of ``command`` with ``model`` and ``name``, and ``{port}`` left in. Raises RequestError."""
    try:
        words = shlex.split(command)
    except ValueError as err:
        raise RequestError(f"server-command is {command!r}: {err}; expected words as in a shell") from err
    if not words or not any("{port}" in word for word in words):
        raise RequestError(
            f"server-command is {command!r}; expected {{port}} in it, such as 'vllm serve {{model}} --port {{port}}'"
        )
    return [word.replace("{name}", name).replace("{model}", model) for word in words]


def _program(name: str) -> str:
    """Returns the path of a program on PATH or beside this Python. Raises SystemicError."""
    beside = Path(sys.executable).parent
    found = shutil.which(name) or shutil.which(name, path=str(beside))
    if found is None:
        how = INSTALL.get(name, "a program on PATH")
        raise SystemicError(
            f"{name} is not installed on this worker; expected {how}, or another --server-command"
        )
    return found
