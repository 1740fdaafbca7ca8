"""Running the console script as a user would, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def environment() -> dict[str, str]:
    """This environment with the virtual environment's commands first, and few threads."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def captionbeam(*arguments: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """``captionbeam ARGUMENTS...``; checks the exit status unless that is None."""
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT, check=False)
    if status is not None:
        assert done.returncode == status, f"{done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done
