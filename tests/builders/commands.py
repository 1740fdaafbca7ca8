"""Running a command as a user would, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.builders.zygote import Zygote

ROOT = Path(__file__).parent.parent.parent
_zygote = Zygote()


def environment() -> dict[str, str]:
    """This environment with the virtual environment's commands first, and few threads."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def captionbeam(*arguments: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """``captionbeam ARGUMENTS...``; checks the exit status unless that is None."""
    done = _zygote.run([str(argument) for argument in arguments], environment(), ROOT)
    if status is not None:
        assert done.returncode == status, f"{done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done
