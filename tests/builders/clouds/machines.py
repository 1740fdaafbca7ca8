"""Processes that stand for the machines of a training job, started the way that a platform would."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.builders.running.commands import ROOT, environment


class Machines:
    """What a platform runs for one job; what they say goes to ``folder``, a file each, one try after the other.

    Several tries are possible: ``start`` again once they are over. A path that begins with a key of ``mounts`` is
    the same below its value, as if something were mounted there.
    """

    def __init__(self, folder: Path, mounts: Mapping[str, str]) -> None:
        self._folder, self._mounts = folder, mounts
        self._running: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, commands: Sequence[tuple[Sequence[str], Mapping[str, str]]]) -> None:
        """Run each command, with its own variables in the environment."""
        self._running = [self._run(number, *command) for number, command in enumerate(commands)]

    def _run(
        self, number: int, command: Sequence[str], variables: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        assert command[0] == "captionbeam", command
        words = [sys.executable, "-m", "captionbeam", *map(self._mounted, command[1:])]
        log = self.log(number).open("ab")
        whole = {**environment(), "OMP_NUM_THREADS": "1", **variables}
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env=whole,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def _mounted(self, word: str) -> str:
        for path, real in self._mounts.items():
            if word.startswith(f"{path}/"):
                return real + word[len(path) :]
        return word

    def log(self, number: int) -> Path:
        """What the machine ``number`` said, in all its tries."""
        return self._folder / f"machine-{number}.log"

    def poll(self) -> list[int | None]:
        """The exit status of each machine; None where it is still at work."""
        return [process.poll() for process in self._running]

    def lose(self, number: int, how: int = signal.SIGTERM) -> None:
        """One machine is taken away."""
        self._running[number].send_signal(how)

    def end(self, seconds: float = 30) -> None:
        """All of them are told to go, and are gone afterwards."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
