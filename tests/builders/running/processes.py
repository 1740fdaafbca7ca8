"""Processes of an engine: each in a group of its own, with a log, and stopped with all that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """Run ``command`` until the block ends; what it says goes to ``log``."""
    with log.open("ab") as said:
        own = dict(environment or os.environ)
        process = subprocess.Popen(list(command), stdout=said, stderr=said, env=own, start_new_session=True)
    try:
        yield process
    finally:
        stop(process)


def run_to_end(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """Run ``command``; raises RuntimeError, with the end of its ``log``, where it fails."""
    with running(command, log, environment) as process:
        if process.wait() != 0:
            raise RuntimeError(f"{command[0]} failed:\n{log.read_text(errors='replace')[-2000:]}")


def stop(process: subprocess.Popen) -> None:
    """Kill the process and its group, and those of its children that left the group."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def await_true(what: str, is_so: Callable[[], bool], seconds: float = 60, log: Path | None = None) -> None:
    """Return once ``is_so()``; raises RuntimeError, with the end of ``log``, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_so():
            return
        time.sleep(0.05)
    said = log.read_text(errors="replace")[-2000:] if log else ""
    raise RuntimeError(f"{what} did not come to be in {seconds:g} s\n{said}")


def listens(port: int) -> bool:
    """Whether somebody listens on this machine's ``port``."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children_of(process: subprocess.Popen, word: str) -> list[psutil.Process]:
    """The processes below ``process`` in whose command line ``word`` is."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE and any(word in part for part in child.cmdline()):
                found.append(child)
    return found
