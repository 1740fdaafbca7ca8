"""A real job in a process of its own, and what its record says."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil


def job_rate(arguments: Sequence[str], scratch: str | None = None) -> tuple[float, int]:
    """Images/s of ``captionbeam ARGUMENTS`` on a store that is thrown away after, and its peak resident bytes."""
    with tempfile.TemporaryDirectory(dir=scratch) as store:
        command = [sys.executable, "-m", "captionbeam", *arguments, "--output", store]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.2)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
        (totals,) = Path(store).glob("plans/*/totals.json")
        return json.loads(totals.read_text())["images_per_second"], peak


def _resident(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0
