"""Resources of this process: cores, threads, memory."""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Returns the number of usable cores: the CPU affinity, limited by the container's CPU quota (rounded up)."""
    usable = getattr(os, "sched_getaffinity", None)
    found = len(usable(0)) if usable else os.cpu_count() or 1
    quota = cpu_quota()
    return found if quota is None else max(1, min(found, math.ceil(quota)))


def threads_each(threads: int | None, processes: int) -> int:
    """Returns the threads for each of ``processes`` equal processes on this machine.

    ``processes`` 0 means one process per core. ``threads`` takes precedence if given, then OMP_NUM_THREADS (which
    torch also reads), then cores / processes.
    """
    if threads:
        return threads
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isascii() and asked.isdigit() and int(asked):
        return int(asked)
    return max(1, cores() // processes) if processes else 1


def cpu_quota(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Returns the container's CPU limit in cores, from cgroup v2 or v1; None if there is no limit."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    tightest = min(_quotas(cgroups, lines), default=math.inf)
    return None if math.isinf(tightest) else tightest


def _quotas(cgroups: Path, lines: list[str]) -> Iterator[float]:
    """Yields the quota of each control group of this process; infinity where there is no limit."""
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
    """Yields the group's folder and its parents. In a container, the path may start outside its own tree."""
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
    """Returns the peak resident memory of this process in bytes."""
    try:  # VmHWM, as ru_maxrss includes the memory of the process before exec
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def os_threads() -> int:
    """Returns the number of threads of this process, including native ones."""
    return int(psutil.Process().num_threads())


@contextmanager
def handling_signals(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Calls ``handler`` for SIGTERM and SIGINT during the block. Only the main thread may use it."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
