"""The process that looks after a machine's model server: ``python -m ... FOLDER LOCK COMMAND...``.

It belongs to no worker. It starts the server, restarts it when it dies or hangs, and stops it when no process has a
lease any more. LOCK is the inherited file descriptor of the supervisor's lock.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from captionbeam.pipelines.endpoints.servers.folder import OWN, ServerFolder, State, healthy

TICK_SECONDS = 0.25
LINGER_SECONDS = 1.0  # without users, so that a worker may follow another
STOP_SECONDS = 10.0  # from SIGTERM to SIGKILL
HUNG_SECONDS = 120.0  # without an answer, of a server that is ready
CHECK_SECONDS = 5.0  # between two looks at one that is ready
DEATHS = 3  # in a row, before the server is ready
MARK = "CAPTIONBEAM_SERVER"  # in the environment of the server and all that it starts
OUTPUTS = (1, 2)  # the file descriptors of standard output and error
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Supervisor:
    """Looks after the server of ``folder``, started by ``words`` with ``{port}`` in them."""

    def __init__(self, folder: ServerFolder, words: Sequence[str]) -> None:
        self._folder, self._words = folder, words
        self._server: subprocess.Popen[bytes] | None = None
        self._port, self._state = 0, State()
        self._used = time.monotonic()

    def run(self) -> None:
        """Runs until nobody uses the server."""
        end_all(self._folder)  # of a supervisor that was killed
        deaths = 0
        try:
            while self._in_use():
                try:
                    self._start()
                except OSError as err:
                    return self._give_up(f"cannot be started: {err}")
                if self._becomes_ready():
                    deaths = 0
                    self._watch()
                elif self._in_use():
                    deaths += 1
                if deaths == DEATHS:
                    return self._give_up(f"died {DEATHS} times before it was ready")
                self._put(State())
                self._stop()
                self._wait(2.0**deaths)
        finally:
            self._stop()
            self._folder.forget()

    def _start(self) -> None:
        self._port = _free_port(self._port)
        words = [word.replace("{port}", str(self._port)) for word in self._words]
        self._say(f"starts {shlex.join(words)}")
        environment = {**os.environ, MARK: str(self._folder.path)}
        self._server = subprocess.Popen(
            words, env=environment, start_new_session=True, preexec_fn=_die_with()
        )
        self._put(State())

    def _becomes_ready(self) -> bool:
        """Returns True when the server is ready, False when it died or nobody waits for it."""
        while self._lives():
            if healthy(self._port):
                self._put(State(url=f"http://127.0.0.1:{self._port}/v1"))
                self._say("is ready")
                return True
        return False

    def _watch(self) -> None:
        """Returns when the server died or hangs, or nobody uses it."""
        seen = looked = time.monotonic()
        while self._lives() and looked - seen < HUNG_SECONDS:
            if time.monotonic() - looked > CHECK_SECONDS:
                looked = time.monotonic()
                seen = looked if healthy(self._port) else seen
                self._folder.keep_up()

    def _lives(self) -> bool:
        """Waits a moment; returns True if the server lives and is used."""
        assert self._server is not None
        with suppress(subprocess.TimeoutExpired):
            self._server.wait(TICK_SECONDS)
        return self._server.returncode is None and self._in_use()

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._in_use():
            time.sleep(TICK_SECONDS)

    def _give_up(self, why: str) -> None:
        """Tells the users, and waits until they have left."""
        leases = self._folder.leases()
        error = f"{why}; its log ({self._folder.log}) says: {self._folder.errors()}"
        self._put(State(error=error, leases=tuple(sorted(leases))))
        while self._folder.leases() & leases:
            time.sleep(TICK_SECONDS)

    def _in_use(self) -> bool:
        if self._folder.leases():
            self._used = time.monotonic()
        if time.monotonic() - self._used <= LINGER_SECONDS:
            return True
        self._folder.forget()  # before the last look, so that a new user sees no server that is about to end
        if self._folder.leases():
            self._put(self._state)
            return True
        return False

    def _put(self, state: State) -> None:
        self._state = state
        self._folder.write(state)

    def _stop(self) -> None:
        if self._server is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._server.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        self._server = None
        end_all(self._folder)

    def _say(self, what: str) -> None:
        print(f"{OWN}the server {what}", flush=True)


def end_all(folder: ServerFolder) -> None:
    """Kills what the folder's server has started and left behind."""
    for process in _left_behind(folder):
        with suppress(psutil.Error):
            process.kill()


def _left_behind(folder: ServerFolder) -> Iterator[psutil.Process]:
    """Yields the processes with the folder's mark, and those that write to its log.

    vLLM's engine processes have no mark: their title overwrites their environment.
    """
    mark, log = str(folder.path), os.path.realpath(folder.log)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and (
                process.environ().get(MARK) == mark or _writes_to(process, log)
            ):
                yield process


def _writes_to(process: psutil.Process, log: str) -> bool:
    return any(file.path == log and file.fd in OUTPUTS for file in process.open_files())


def _free_port(wanted: int) -> int:
    """Returns ``wanted`` if nobody listens there, else another port. 0: any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return _free_port(0)
        return int(probe.getsockname()[1])


def _die_with() -> Callable[[], None] | None:
    """Returns what a child calls so that it gets SIGTERM when this process dies; None where there is no such call."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def main(arguments: Sequence[str]) -> None:
    """Supervises in the background; returns at once."""
    folder, lock, *words = arguments
    if os.fork():
        os._exit(0)
    os.setsid()
    os.set_inheritable(int(lock), False)
    signal.signal(signal.SIGTERM, _ended)
    Supervisor(ServerFolder(Path(folder)), words).run()


def _ended(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main(sys.argv[1:])
