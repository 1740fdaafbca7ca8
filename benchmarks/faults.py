"""kill -9 at random moments, a full disk, a read-only one, a source that fails: what is in the store afterwards.

    python benchmarks/faults.py --kills 100

Each job (encode, caption, train, refresh) is first run unbroken. Then it is started again and again in a place of its
own, killed with its whole process group at a random moment of its work, sometimes twice, and the same command is run
to its end. What it leaves has to be what the unbroken run left: the same rows to the bit, the same failures, no row
twice, ``captionbeam store verify`` clean. Ends with status 1 where that is not so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bad_server import serve
from PIL import Image

from captionbeam.schemas import Store
from captionbeam.schemas.storage import files

ROOT = Path(__file__).parent.parent
LITE = ("--encoder", "efficientnet_lite0", "--image-size", "64", "--precision", "fp32", "--batch-size", "2")
SHARDS = ("--shard-size", "3", "--warn-failures", "1")
SMALL = ("--epochs", "3", "--batch-size", "4", "--precision", "fp32", "--checkpoint-minutes", "0", "--threads", "1",
         "--embed-dim", "16", "--hidden-dim", "16", "--attention-dim", "16", "--feature-dim", "16")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A job that is killed: its command for an output, its working moments, and what it leaves."""

    name: str
    command: Callable[[Path], list[str]]
    begun: Callable[[Path], bool]
    result: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda output: None


def main() -> None:
    """Print one JSON object."""
    options = _parser().parse_args()
    draw, wrong, counts = random.Random(options.seed), [], Counter()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        jobs = [job for job in make_jobs(Path(folder)) if job.name in options.jobs.split(",")]
        for number in itertools.count():
            killed = sum(count for name, count in counts.items() if name.endswith(" killed"))
            if number >= len(jobs) and killed >= options.kills:  # each job once at least
                break
            job = jobs[number % len(jobs)]
            said = kill_trial(job, Path(folder) / f"trial-{number}", draw, counts)
            wrong += [f"kill {number}, {job.name}: {said}"] if said else []
        for name, trial in (("full disk", full_disk), ("read-only", read_only), ("bad source", bad_source)):
            said = trial(Path(folder), counts)
            wrong += [f"{name}: {said}"] if said else []
    print(json.dumps({**counts, "wrong": wrong}, indent=1))
    sys.exit(bool(wrong))


def make_jobs(folder: Path) -> list[Job]:
    """The jobs, on pictures of noise; whatever they need of one another is made here, unbroken."""
    photos, features, tokens, bundle = (folder / name for name in ("photos", "features", "tokens", "bundle"))
    bucket, yesterday = folder / "bucket", folder / "yesterday"
    draw_photos(photos)
    shutil.copytree(photos, bucket)
    run("encode", bucket, "--output", yesterday, *LITE, *SHARDS)
    a_day_passes(bucket)
    captions = folder / "captions.json"
    captions.write_text(json.dumps(coco(sorted(path.name for path in photos.glob("[0-9]*.jpg")))))
    run("encode", photos, "--output", features, *LITE, *SHARDS)
    run("tokenize", "--train", captions, "--val-share", "0.2", "--output", tokens, "--merges", "40")
    train = ("train", "--features", features, "--tokens", tokens, "--device", "cpu", *SMALL)
    run(*train, "--output", bundle)

    def planned(output: Path) -> bool:
        return any(output.glob("plans/*/parts/*"))

    return [
        Job("encode", lambda out: words("encode", photos, "--output", out, *LITE, *SHARDS), planned, store_rows),
        Job("caption", lambda out: words("caption", photos, "--bundle", bundle, "--output", out, *SHARDS),
            planned, store_rows),
        Job("train", lambda out: words(*train, "--output", out),
            lambda out: Path(f"{out}-checkpoints").exists(), bundle_weights),
        Job("refresh", lambda out: words("refresh", bucket, "--output", out, *LITE, *SHARDS, "--max-deletes", "0.5"),
            lambda out: len(list(out.glob("plans/*"))) > 1, store_rows, lambda out: shutil.copytree(yesterday, out)),
    ]  # fmt: skip


def draw_photos(folder: Path) -> None:
    """Forty pictures of noise and a broken one."""
    folder.mkdir()
    for number in range(40):
        draw_photo(folder / f"{number:03d}.jpg", number)
    (folder / "broken.jpg").write_bytes(b"not a picture")


def draw_photo(path: Path, seed: int) -> None:
    """A picture of noise."""
    noise = np.random.default_rng(seed)
    Image.fromarray(noise.integers(0, 255, (48, 64, 3), np.uint8)).save(path)


def a_day_passes(folder: Path) -> None:
    """Ten pictures are new, eight changed, five are gone."""
    for number in range(40, 50):
        draw_photo(folder / f"{number:03d}.jpg", number)
    for number in range(8):
        draw_photo(folder / f"{number:03d}.jpg", 1000 + number)
    for number in range(20, 25):
        (folder / f"{number:03d}.jpg").unlink()


def coco(names: list[str]) -> dict[str, object]:
    """Captions of the pictures in COCO's format."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    notes = [
        {"id": n, "image_id": n, "caption": f"a picture with noise number {n % 7}"} for n in range(len(names))
    ]
    return {"images": images, "annotations": notes}


def words(*arguments: object) -> list[str]:
    """The command of a job, as a process of its own."""
    return [sys.executable, "-m", "captionbeam", *map(str, arguments)]


def run(*arguments: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """A job to its end; checks its exit status unless that is None."""
    done = subprocess.run(words(*arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    if status is not None and done.returncode != status:
        raise SystemExit(f"{arguments}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


_unbroken: dict[str, tuple[object, float]] = {}


def kill_trial(job: Job, output: Path, draw: random.Random, counts: Counter[str]) -> str:
    """One start with one kill or two, and the same command to its end; what is wrong with what that left."""
    if job.name not in _unbroken:
        _unbroken[job.name] = unbroken(job, output.parent / f"unbroken-{job.name}")
    expected, seconds = _unbroken[job.name]
    job.prepare(output)
    for _ in range(draw.choice([1, 1, 2])):
        counts[f"{job.name} {kill_once(job, output, draw.uniform(0, 0.8 * seconds))}"] += 1
    done = subprocess.run(job.command(output), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"status {done.returncode}: {done.stderr[-500:]}"
    return difference(job.result(output), expected)


def unbroken(job: Job, output: Path) -> tuple[object, float]:
    """What the job leaves that nobody kills, and how long it is at work."""
    job.prepare(output)
    process = subprocess.Popen(
        job.command(output), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    wait(lambda: job.begun(output) or process.poll() is not None)
    start = time.monotonic()
    _, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"{job.name}: status {process.returncode}\n{err.decode()}")
    return job.result(output), time.monotonic() - start


def kill_once(job: Job, output: Path, moment: float) -> str:
    """Start the job and kill it ``moment`` seconds into its work, all its processes."""
    process = subprocess.Popen(
        job.command(output),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait(lambda: job.begun(output) or process.poll() is not None)
    try:
        process.wait(moment)
        return "ended before its kill"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "killed"


def wait(until: Callable[[], bool]) -> None:
    """Until it holds."""
    while not until():
        time.sleep(0.02)


def store_rows(url: Path) -> object:
    """Every live row's bytes, every failure, and what ``store verify`` says."""
    store, rows = Store.open(str(url)), Counter()
    for batch in store.scan():
        for row in batch.to_pylist():
            rows[repr(sorted(row.items()))] += 1
    failures = sorted((row["image_id"], row["code"]) for row in store.failures().to_pylist())
    verified = run("store", "verify", url, status=None)
    return {"rows": rows, "failures": failures, "verify": verified.returncode or "clean"}


def bundle_weights(url: Path) -> object:
    """The trained parameters' bytes."""
    return files.read_bytes(str(url / "model.safetensors"))


def difference(found: object, expected: object) -> str:
    """One line, empty where there is none."""
    if found == expected:
        return ""
    if not isinstance(found, dict) or not isinstance(expected, dict):
        return "other bytes than those of the unbroken run"
    odd = [name for name in expected if found[name] != expected[name]]
    return f"{', '.join(odd)} not those of the unbroken run: {[str(found[name])[:300] for name in odd]}"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A disk of its own in memory, where this user may mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False)
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)


def full_disk(folder: Path, counts: Counter[str]) -> str:
    """Encode onto a disk that is too small, which is then enlarged."""
    with small_disk(folder / "disk", "3m") as disk:
        if disk is None:
            counts["full disk: not tried, mounting one is not allowed here"] += 1
            return ""
        command = ("encode", folder / "photos", "--output", disk / "store", *LITE, *SHARDS)
        done = run(*command, status=None)
        if done.returncode != 1 or "No space left on device" not in done.stderr.splitlines()[-1]:
            return f"status {done.returncode}: {done.stderr[-500:]}"
        subprocess.run(["mount", "-o", "remount,size=300m", disk], check=True)
        run(*command)
        counts["full disk"] += 1
        return difference(store_rows(disk / "store"), store_rows(folder / "features"))


def read_only(folder: Path, counts: Counter[str]) -> str:
    """Encode onto a disk that lets nothing be written."""
    with small_disk(folder / "shut", "1m") as disk:
        if disk is None:
            counts["read-only: not tried, mounting a disk is not allowed here"] += 1
            return ""
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = run("encode", folder / "photos", "--output", disk / "store", *LITE, status=None)
        counts["read-only"] += 1
        said = done.stderr.splitlines()[-1]
        return (
            ""
            if done.returncode == 2 and "cannot be used as a store" in said
            else f"{done.returncode}: {said}"
        )


def bad_source(folder: Path, counts: Counter[str]) -> str:
    """Encode from a web server that refuses, cuts off and stalls a third of its answers, until all is there."""
    photos, store = folder / "photos", folder / "from-web"
    with serve(photos, seed=0) as address:
        listing = folder / "list.csv"
        names = sorted(path.name for path in photos.iterdir())
        listing.write_text("image_id,uri\n" + "".join(f"{name},{address}/{name}\n" for name in names))
        command = (
            "encode",
            listing,
            "--output",
            store,
            *LITE,
            *SHARDS,
            "--fetch-timeout",
            "1",
            "--fetch-tries",
            "2",
            "--allow-private-addresses",
        )
        for _ in range(10):
            run(*command)
            counts["bad source: runs"] += 1
            if all(row["code"] == "unsupported" for row in Store.open(str(store)).failures().to_pylist()):
                break
    found, expected = store_rows(store), store_rows(folder / "features")
    return difference(_without_places(found), _without_places(expected))


def _without_places(result: object) -> object:
    """How many rows, which failures: a list's rows say other places than a folder's."""
    assert isinstance(result, dict)
    return {**result, "rows": sum(result["rows"].values())}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="until so many were at work (default 100)")
    parser.add_argument("--jobs", default="encode,caption,train,refresh", help="those that are killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch")
    return parser


if __name__ == "__main__":
    main()
