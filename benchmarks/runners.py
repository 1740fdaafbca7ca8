"""Beam's local runners against the in-process one: a real encode job, and pure planning.

    python benchmarks/runners.py photographs.zip --images 512 --planned 50000 --prism PATH

Each runner takes its turn after the in-process one, and its ratio is to the mean of the in-process runs right before
and after it, so that a machine that drifts favours nobody. Encoding is the job that a user runs, with ``--shard-size``
small enough that every worker has several; planning is ``scale.py``'s first run: a synthetic listing, and a worker
that sees nothing. For each: seconds of the whole command, images/s (of the job's record; of the whole run for
planning), processor seconds of all its processes, and the most memory that they held together (pages that they share
are counted once for each).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
Run = Callable[[list[str]], dict[str, float]]


def main() -> None:
    """Print one JSON object."""
    options = _parser().parse_args()
    runners = _runners(options)
    figures: dict[str, Any] = {"cores": os.cpu_count(), "images": options.images, "planned": options.planned}
    if options.source:
        figures["encode"] = _compare(runners, lambda flags: encode(options, flags))
    if options.planned:
        figures["plan"] = _compare(runners, lambda flags: plan(options, flags))
    print(json.dumps(figures, indent=1))


def encode(options: argparse.Namespace, flags: list[str]) -> dict[str, float]:
    """One encode job on a store that is thrown away."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as store:
        words = ["encode", options.source, "--output", store, "--encoder", options.encoder]
        words += ["--limit", str(options.images), "--shard-size", str(options.shard_size)]
        found = watch([sys.executable, "-m", "captionbeam", *words, *flags])
        (totals,) = (json.loads(path.read_text()) for path in Path(store).glob("plans/*/totals.json"))
    assert totals["rows"] == options.images, totals
    return {"images_per_second": totals["images_per_second"], **found}


def plan(options: argparse.Namespace, flags: list[str]) -> dict[str, float]:
    """One planning run on a store that is thrown away."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        words = ["--store", f"{folder}/store", "--images", str(options.planned), "--changed", "0", "--once"]
        found = watch([sys.executable, str(HERE / "scale.py"), *words, *flags])
    return {"images_per_second": options.planned / found["seconds"], **found}


def watch(command: list[str]) -> dict[str, float]:
    """Run a command, and say what it and all that it started took."""
    start, peak = time.monotonic(), 0
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
    while True:
        peak = max(peak, _resident(process.pid))
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.2)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": time.monotonic() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_rss_mb": peak >> 20,
    }


def _resident(pid: int) -> int:
    try:
        root = psutil.Process(pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)])
    except psutil.Error:
        return 0


def _compare(runners: Mapping[str, list[str]], run: Run) -> dict[str, dict[str, float]]:
    """Each runner's figures, and its ratio to the in-process one around it."""
    plain, figures = [run([])], {}
    for name, flags in runners.items():
        found = run(flags)
        plain.append(run([]))
        base = statistics.mean(each["images_per_second"] for each in plain[-2:])
        figures[name] = {"ratio": found["images_per_second"] / base, **found}
    middle = {name: statistics.mean(each[name] for each in plain) for name in plain[0]}
    figures = {"in-process": {"ratio": 1.0, **middle}, **figures}
    return {name: {key: round(value, 2) for key, value in found.items()} for name, found in figures.items()}


def _runners(options: argparse.Namespace) -> dict[str, list[str]]:
    workers = ["--direct_num_workers", str(options.workers), "--direct_running_mode", "multi_processing"]
    runners = {f"{options.workers} processes": workers}
    if options.prism:
        runners["prism"] = ["--runner", "PrismRunner", "--prism_location", options.prism]
    return runners


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", nargs="?", help="images to encode: a folder, a zip, ... (none: only planning)"
    )
    parser.add_argument("--images", type=int, default=512, help="how many of them (default 512)")
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--shard-size", type=int, default=64, help="images a shard (default 64)")
    parser.add_argument("--planned", type=int, default=50_000, help="images to plan (default 50000; 0: none)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="of the direct runner (default: cores)"
    )
    parser.add_argument("--prism", help="the binary of Prism (default: without Prism)")
    parser.add_argument("--scratch", help="folder for the stores that the jobs write")
    return parser


if __name__ == "__main__":
    main()
