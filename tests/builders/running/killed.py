"""Run a job in this process and kill it with -9 at a chosen point: ``python killed.py POINT N JOB ARGUMENTS...``.

The points are moments between two writes of a run. ``N`` says at which time of passing it dies.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from captionbeam.jobs import cli
from captionbeam.pipelines.workers import output
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout


def dying(
    function: Callable[..., Any], times: int, when: Callable[..., bool] = lambda *_: True
) -> Callable[..., Any]:
    """``function``, which kills the process before its ``times``-th call for which ``when`` holds."""
    passed = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal passed
        passed += when(*args)
        if passed == times and when(*args):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return call


def in_folder(name: str) -> Callable[..., bool]:
    """Whether a write goes to this folder of a store."""
    return lambda url, *_: f"/{name}/" in url


def arm(point: str, times: int) -> None:
    """Set the trap."""
    if point == "between data and index":
        output.files.write_atomic = dying(files.write_atomic, times, in_folder("index"))
    elif point == "between index and commit":
        layout.create_commit = dying(layout.create_commit, times)
    elif point == "between the last commit and the snapshot":
        layout.create_snapshot = dying(layout.create_snapshot, 1)
    elif point == "while planning":
        files.create = dying(files.create, 1, in_folder("parts"))
    elif point == "while rewriting columns":
        files.create = dying(files.create, times, in_folder("columns"))
    else:
        raise SystemExit(f"no point {point!r}")


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    sys.exit(cli.main(sys.argv[3:]))
