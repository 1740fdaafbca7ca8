"""What this machine gives a process: cores, threads, memory."""

from __future__ import annotations

import math
import os
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """The cores that this process may use: its affinity, and its container's CPU quota, rounded up."""
    usable = getattr(os, "sched_getaffinity", None)
    found = len(usable(0)) if usable else os.cpu_count() or 1
    quota = cpu_quota()
    return found if quota is None else max(1, min(found, math.ceil(quota)))


def threads_each(threads: int | None, processes: int) -> int:
    """The threads that are due to each of ``processes`` like this one on this machine (0: one for each core).

    ``threads`` is what was asked for; else OMP_NUM_THREADS counts, as it does for torch; else cores / processes.
    """
    if threads:
        return threads
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isascii() and asked.isdigit() and int(asked):
        return int(asked)
    return max(1, cores() // processes) if processes else 1


def cpu_quota(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The cores' worth of time that the container may use, by cgroup v2 or v1; None where there is no limit."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    tightest = min(_quotas(cgroups, lines), default=math.inf)
    return None if math.isinf(tightest) else tightest


def _quotas(cgroups: Path, lines: list[str]) -> Iterator[float]:
    """Of every group that this process is in, infinite where it has no limit."""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files = [folder / "cpu.max" for folder in _upwards(cgroups, path)]
            yield from (_ratio(*_words(file)) for file in files if file.is_file())
        elif "cpu" in controllers.split(","):
            for folder in (
                place for name in ("cpu", controllers) for place in _upwards(cgroups / name, path)
            ):
                names = [folder / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
                if all(file.is_file() for file in names):
                    yield _ratio(*(word for file in names for word in _words(file)))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it; in a container of its own the path may begin outside."""
    inside = PurePosixPath(path.lstrip("/"))
    yield from (root / part for part in (inside, *inside.parents))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return ["max"]


def _ratio(quota: str = "max", period: str = "100000") -> float:
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def peak_rss() -> int:
    """Bytes of memory that this process held at most."""
    try:  # not what getrusage says: that counts what the process was before it started its program
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def os_threads() -> int:
    """The threads of this process, those of native libraries too where the system counts them."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()
