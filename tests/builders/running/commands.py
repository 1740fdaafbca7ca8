"""Running a command as a user would: in this process, which has everything loaded."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import PIPE
from typing import Any
from unittest.mock import patch

from captionbeam.jobs.cli import main

ROOT = Path(__file__).parents[3]
WIDE = {"COLUMNS": "200"}


def environment() -> dict[str, str]:
    """This environment with the virtual environment's commands first, for processes of a test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PATH": path, "PYTHONPATH": python_path, **WIDE}


def flags(**options: object) -> list[str]:
    """Options by their names in Python as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def start(*arguments: object, program: str = "-m captionbeam", **how: Any) -> subprocess.Popen[str]:
    """``captionbeam ARGUMENTS...`` as a process in the background."""
    words = [sys.executable, *program.split(), *map(str, arguments)]
    return subprocess.Popen(words, **{"env": environment(), "cwd": ROOT, "text": True, **how})


def killed_at(point: str, times: int, *arguments: object) -> str:
    """What ``captionbeam ARGUMENTS...`` said before it was killed at a point of killed.py."""
    job = start(
        point, times, *arguments, program="tests/builders/running/killed.py", stdout=PIPE, stderr=PIPE
    )
    said, errors = job.communicate()
    assert job.returncode == -signal.SIGKILL, errors
    return said


def captionbeam(*arguments: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """``captionbeam ARGUMENTS...``; checks the exit status unless that is None."""
    words = [str(argument) for argument in arguments]
    with (
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
        patch.dict(os.environ, WIDE),
    ):
        found = main(words)
    done = subprocess.CompletedProcess(["captionbeam", *words], found, out.getvalue(), err.getvalue())
    checked(done, status)
    twice = {"schemas", "capmodel", "pipelines", "jobs"} & sys.modules.keys()
    assert not twice, f"imported outside captionbeam: {sorted(twice)}"
    return done


def checked(done: subprocess.CompletedProcess[str], status: int | None) -> None:
    """Asserts a command's exit status, unless that is None."""
    assert status in (None, done.returncode), f"{done.returncode}:\n{done.stdout}\n{done.stderr}"
