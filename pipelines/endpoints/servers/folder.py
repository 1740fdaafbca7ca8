"""The folder in which a machine's model server, its supervisor and its users find each other.

``supervisor.lock``: held by the supervisor for its life. ``lease-*``: one for each user, held for its life.
``state.json``: written by the supervisor. ``server.log``: output of server and supervisor.

Locks end with their process, however it ends, so nothing here has to be cleaned up after a kill.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TextIO

from captionbeam.schemas.errors import SystemicError

HEALTH_SECONDS = 2.0
LOG_BYTES, TAIL_BYTES = 64 << 20, 1 << 16
LINE_LENGTH = 240  # characters of a log's line in a message
OWN = "captionbeam: "  # starts the supervisor's lines in the log
_EXCEPTION = re.compile(  # in a log, often after "] "
    r"(?:.*\] +)?((?:\w+\.)*[A-Z]\w*(?:Error|Exception): .+)"
)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class State:
    """What the supervisor says of its server.

    ``url``: its API's base URL, once it was healthy; "" until then. ``error``: why there is no server, and will not be
    one, for the users with ``leases``.
    """

    url: str = ""
    error: str = ""
    leases: tuple[str, ...] = ()


class ServerFolder:
    """The folder of a server, below this user's own in the temp directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log, self._state = path / "server.log", path / "state.json"

    @classmethod
    def of(cls, words: Sequence[str]) -> ServerFolder:
        """Makes the folder of the server that ``words`` start. Raises SystemicError if others may write to it."""
        digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
        root = Path(tempfile.gettempdir()) / f"captionbeam-{os.getuid()}"
        for folder in (root, root / digest):
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_private(folder)
        return cls(root / digest)

    def state(self) -> State:
        """Returns what the supervisor wrote last. Meaningless if no supervisor is alive."""
        try:
            found = json.loads(self._state.read_text())
        except FileNotFoundError:
            return State()
        return State(**{**found, "leases": tuple(found["leases"])})

    def write(self, state: State) -> None:
        """Replaces the state."""
        beside = self._state.with_suffix(".new")
        beside.write_text(json.dumps(asdict(state)))
        os.replace(beside, self._state)

    def forget(self) -> None:
        """Removes the state."""
        self._state.unlink(missing_ok=True)

    def lock_supervisor(self) -> int | None:
        """Returns a locked file descriptor to hand to a supervisor; None if there is a living one."""
        descriptor = os.open(self.path / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def lease(self) -> Lease:
        """Returns a new lease: the server runs as long as anybody holds one."""
        return Lease(self.path)

    def leases(self) -> frozenset[str]:
        """Returns the names of the leases that living processes hold, and removes the others."""
        return frozenset(path.name for path in self.path.glob("lease-*") if _held(path))

    def keep_up(self) -> None:
        """Keeps the files young, as systems remove old ones from temp directories, and the log short."""
        for path in self.path.iterdir():
            with suppress(FileNotFoundError):
                os.utime(path)
        with suppress(FileNotFoundError), self.log.open("r+b") as log:
            if log.seek(0, os.SEEK_END) > LOG_BYTES:
                log.seek(-TAIL_BYTES, os.SEEK_END)
                tail = log.read()
                log.truncate(0)  # the server appends
                log.seek(0)
                log.write(tail)

    def last_lines(self, count: int = 3) -> str:
        """Returns the last lines of the server's log that say something, in one line."""
        return _in_one_line(self._said()[-count:])

    def errors(self, count: int = 3) -> str:
        """Returns the last exceptions of the server's log in one line, each once, or else its last lines.

        The last lines alone rarely have the reason: vLLM's first process only says that another one failed.
        """
        said = self._said()
        found = dict.fromkeys(match[1] for match in map(_EXCEPTION.fullmatch, said) if match)
        return _in_one_line((list(found) or said)[-count:])

    def _said(self) -> list[str]:
        said = b""
        with suppress(FileNotFoundError), self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            said = log.read()
        lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
        return [line for line in lines if line and not line.startswith(OWN)]


class Lease:
    """A user's lease. It ends with ``release``, or with the process."""

    def __init__(self, folder: Path) -> None:
        self.name = f"lease-{uuid.uuid4().hex}"
        self._path, hidden = folder / self.name, folder / f"new-{self.name}"
        self._file: TextIO = hidden.open("w")
        # POSIX locks, as flock's would be inherited by forks of this process
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        hidden.rename(self._path)  # a supervisor never sees it unlocked

    def release(self) -> None:
        """Ends the lease."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def _in_one_line(lines: Sequence[str]) -> str:
    return " / ".join(line[:LINE_LENGTH] for line in lines)[-500:] or "(empty)"


def _held(lease: Path) -> bool:
    with suppress(FileNotFoundError), lease.open("r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        lease.unlink(missing_ok=True)
    return False


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SystemicError(
            f"{folder} is not a folder that only user {os.getuid()} can use; expected to make one there: "
            "remove it, or set TMPDIR to another directory"
        )


def healthy(port: int) -> bool:
    """Returns True if the server on this machine's ``port`` answers that it is ready."""
    status = _status(f"http://127.0.0.1:{port}/health")
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        status = _status(f"http://127.0.0.1:{port}/v1/models")
    return status == HTTPStatus.OK


def _status(url: str) -> int:
    """Returns the answer's status; 0 if there is none."""
    try:
        with _DIRECT.open(url, timeout=HEALTH_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as err:
        return err.code
    except (OSError, HTTPException):
        return 0
