"""Broken pictures and tricky archives by the thousand through the real encode job: what became of each.

    python benchmarks/broken_inputs.py --cases 10000 --pictures PHOTOGRAPHS

The pictures of a folder (a few drawn ones without it), in six formats, are cut, flipped, spliced and made to lie,
and lie in a folder, a zip, a tar and a Parquet file. Each has to become a row, or one failure with a code that is
right for it; the job has to end by itself, within its memory. Ends with status 1 where something did not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from broken_cases import Case, damaged, originals, tar_of, tricky_members, zip_of
from PIL import Image

from captionbeam.schemas import Store

ENCODER = ("--encoder", "efficientnet_lite0", "--image-size", "64", "--pooled")


def main() -> None:
    """Print one JSON object."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        sources, cases = write_cases(Path(folder), options)
        start = time.perf_counter()
        peak = run_job([*sources, "--output", f"{folder}/store", *ENCODER], options.seconds)
        seconds = time.perf_counter() - start
        outcomes = read_outcomes(f"{folder}/store")
    wrong = check(cases, outcomes)
    figures = {
        "cases": len(cases),
        "outcomes": dict(Counter(found for each in outcomes.values() for found in each).most_common()),
        "seconds": round(seconds, 1),
        "peak_rss_mb": peak >> 20,
        "wrong": wrong[:20],
    }
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    sys.exit(bool(wrong) or peak > options.memory << 20)


def write_cases(folder: Path, options: argparse.Namespace) -> tuple[list[str], list[Case]]:
    """The sources and all cases: half of them in a folder, the rest in a zip, a tar and a Parquet file."""
    whole = originals(_pictures(options.pictures))
    count = options.cases
    loose = list(damaged(whole, count // 2, options.seed))
    (folder / "files").mkdir()
    for case in loose:
        (folder / "files" / case.name).write_bytes(case.data)
    zipped = tricky_members(whole, count // 6, options.seed)
    (folder / "tricky.zip").write_bytes(zip_of(zipped))
    tarred, named = tar_of(list(damaged(whole, count // 6, options.seed + 1)), links=10)
    (folder / "tricky.tar").write_bytes(tarred)
    cells = [case._replace(name=f"cell{case.name}") for case in damaged(whole, count // 6, options.seed + 2)]
    table = pa.table({"image_id": [case.name for case in cells], "image": [case.data for case in cells]})
    pq.write_table(table, folder / "cells.parquet", row_group_size=64)
    sources = [str(folder / name) for name in ("files", "tricky.zip", "tricky.tar", "cells.parquet")]
    return sources, [*loose, *zipped, *named, *cells]


def _pictures(folder: str | None) -> list[Image.Image]:
    if folder is None:
        noise = Image.effect_noise((300, 200), 60)
        return [Image.merge("RGB", (noise, Image.linear_gradient("L").resize((300, 200)), noise))]
    return [Image.open(path) for path in sorted(Path(folder).rglob("*.jpg"))[:12]]


def run_job(arguments: Sequence[str], seconds: float) -> int:
    """The encode job, ended after ``seconds``; gives its peak resident bytes."""
    command = [
        sys.executable,
        "-m",
        "captionbeam.jobs.cli",
        "encode",
        *arguments,
        "--warn-failures",
        "1",
        "--shard-size",
        "256",
    ]
    job, peak, end = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0, time.monotonic() + seconds
    while job.poll() is None:
        peak = max(peak, psutil.Process(job.pid).memory_info().rss)
        if time.monotonic() > end:
            job.kill()
            raise SystemExit(f"the job was still at work after {seconds:g} s")
        time.sleep(0.1)
    if job.returncode:
        raise SystemExit(f"the job ended with status {job.returncode}")
    return peak


def read_outcomes(url: str) -> dict[str, list[str]]:
    """``row`` and failure codes by image."""
    store, found = Store.open(url), {}
    for image_id in store.ids():
        found.setdefault(image_id, []).append("row")
    for failure in store.failures().to_pylist():
        found.setdefault(failure["image_id"], []).append(failure["code"])
    return found


def check(cases: Sequence[Case], outcomes: dict[str, list[str]]) -> list[str]:
    """What is not as it should be, a line each."""
    wrong = [f"{name}: is no case" for name in outcomes.keys() - {case.name for case in cases}]
    for case in cases:
        found = outcomes.get(case.name, [])
        if len(found) != 1 or found[0] not in case.right:
            wrong.append(f"{case.name}: {found}; expected one of {sorted(case.right)}")
    return wrong


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--pictures", help="a folder of photographs (.jpg)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1800, help="the job's time (default 1800)")
    parser.add_argument("--memory", type=int, default=6144, help="MB that the job may take (default 6144)")
    parser.add_argument("--scratch")
    return parser


if __name__ == "__main__":
    main()
