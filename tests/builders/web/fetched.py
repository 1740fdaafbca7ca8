"""What tests need that is no package of Python: a program of the machine, and what it fetches or builds."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

import pytest


def need(command: str, what: str) -> str:
    """Where ``command`` is; skips the test where it is not installed."""
    found = shutil.which(command)
    if found is None:
        pytest.skip(f"no {what}: it needs {command}, which is not installed")
    return found


def fetch(command: Sequence[str], what: str, **more: str) -> str:
    """Run a command that fetches or builds, with ``more`` in its environment; gives what it wrote.

    Fails the test, with its last words, where that fails: who has the tool is to have the engine, and a run of the
    tests that never started one must not look like one that did.
    """
    environment: Mapping[str, str] = {**os.environ, **more}
    done = subprocess.run(list(command), env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines() or ["nothing said"]
        pytest.fail(f"no {what}: {' '.join(command)} failed: {' '.join(said[-3:])}", pytrace=False)
    return done.stdout
