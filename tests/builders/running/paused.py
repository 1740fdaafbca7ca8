"""Run a job in this process and hold it up once: ``python paused.py POINT FOLDER JOB ARGUMENTS...``.

At the point it makes FOLDER/here and waits until somebody makes FOLDER/go.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captionbeam.jobs import cli
from captionbeam.schemas.store import layout

POINTS = {"before a commit": "create_commit", "before the snapshot": "create_snapshot"}


def waiting(function: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """``function``, whose first call waits for somebody's leave."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not (folder / "here").exists():
            (folder / "here").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    name = POINTS[sys.argv[1]]
    setattr(layout, name, waiting(getattr(layout, name), Path(sys.argv[2])))
    sys.exit(cli.main(sys.argv[3:]))
