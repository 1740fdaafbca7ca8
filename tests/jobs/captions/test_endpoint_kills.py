"""kill -9 while an endpoint is asked, then the same command with other shards: what was kept is not asked again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import cycle

import numpy as np
import psutil
import pytest
from PIL import Image

from captionbeam.pipelines.endpoints.answer_parts import all_parts
from captionbeam.pipelines.maintenance.vacuum import vacuum
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from captionbeam.schemas.store import layout
from tests.builders.running.commands import ROOT, environment
from tests.builders.web.endpoint import endpoint_process, logged

pytestmark = pytest.mark.engines

IMAGES, CONCURRENCY, LATENCY = 1000, 16, 0.02
OPEN = CONCURRENCY + 64  # images of a process that are asked again after kill -9
PROCESSES = ("--direct_running_mode", "multi_processing", "--direct_num_workers", 2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"{number:04d}.jpg")
    return folder


class Trial:
    """A store that a command fills, from a server that counts."""

    def __init__(self, folder, photos, server):
        self.store, self.log, self._folder = folder / "store", folder / "requests", photos
        self.said = folder / "said"
        self._server = server

    def command(self, shard_size, *flags):
        words = ["caption", self._folder, "--output", self.store, "--captioner", f"openai:{self._server}", "--model",
                 "scripted", "--prompt", "Describe it.", "--concurrency", CONCURRENCY, "--shard-size", shard_size,
                 *flags]  # fmt: skip
        return [sys.executable, "-m", "captionbeam", *map(str, words)]

    def start(self, shard_size, *flags):
        """Starts the command in a group of its own."""
        with self.said.open("ab") as said:
            return subprocess.Popen(
                self.command(shard_size, *flags), env=environment(), cwd=ROOT, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip

    def finish(self, shard_size, *flags):
        """Runs the command to its end."""
        job = self.start(shard_size, *flags)
        assert job.wait(300) == 0, self.said.read_text()

    def requests(self):
        return len(logged(self.log))

    def pictures(self):
        """The number of pictures that the server saw."""
        return len({line["picture"] for line in logged(self.log)})

    def rows(self):
        """Each image's answers."""
        batches = Store.open(str(self.store)).scan(["image_id", "captions"])
        rows = [row for batch in batches for row in batch.to_pylist()]
        found = {row["image_id"]: row["captions"] for row in rows}
        assert len(found) == len(rows)
        return found

    def check(self, undisturbed):
        """Checks that the store has what an undisturbed run gives, and that a vacuum removes what is left."""
        assert self.rows() == undisturbed
        assert Store.open(str(self.store)).failures().num_rows == 0
        assert verify(str(self.store)).problems == []
        assert self.pictures() == IMAGES
        vacuum(str(self.store), 1, 0)
        assert all_parts(str(self.store)) == []


@pytest.fixture
def trial(photos, tmp_path):
    with endpoint_process(tmp_path / "requests", LATENCY) as server:
        yield Trial(tmp_path, photos, server)


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """The rows of a run that nobody kills: one request an image."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with endpoint_process(folder / "requests", LATENCY) as server:
        trial = Trial(folder, photos, server)
        trial.finish(100)
    assert trial.requests() == len(trial.rows()) == IMAGES
    assert all_parts(str(trial.store)) == []
    return trial.rows()


def wait_for(job, holds):
    """Waits until ``holds()``. Returns whether it does before the job ends."""
    while job.poll() is None:
        if holds():
            return True
        time.sleep(0.005)
    return False


def kill(job):
    with suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()


def test_killed_at_ten_moments(trial, undisturbed):
    """After so many requests, on a first part, on a first commit, and when all is asked."""
    store, sizes, again = str(trial.store), cycle([100, 37, 64, 250, 20]), 0
    for moment in (1, 10, 40, "part", 70, 110, "commit", 150, 200, "all"):
        before, parts, commits = trial.requests(), set(all_parts(store)), layout.committed_shards(store)
        happened = {
            "part": lambda parts=parts: set(all_parts(store)) - parts,
            "commit": lambda commits=commits: layout.committed_shards(store) - commits,
            "all": lambda: trial.pictures() == IMAGES,
        }.get(moment, lambda before=before, moment=moment: trial.requests() >= before + moment)
        job = trial.start(next(sizes))
        try:
            assert wait_for(job, happened), f"ended before {moment}: {trial.said.read_text()}"
        finally:
            kill(job)
        again += min(trial.requests() - before, OPEN)
    trial.finish(next(sizes))
    assert trial.requests() <= IMAGES + again
    trial.check(undisturbed)


def test_a_killed_worker_process(trial, undisturbed):
    """The other one, and the job, end with it; the next launch asks for what was open."""
    job = trial.start(40, *PROCESSES)
    try:
        assert wait_for(job, lambda: trial.requests() >= 300), trial.said.read_text()
        processes = psutil.Process(job.pid).children(recursive=True)
        workers = [one for one in processes if "sdk_worker" in " ".join(one.cmdline()) and one.name() != "sh"]
        assert len(workers) == 2
        workers[0].kill()
        job.wait(120)
    finally:
        kill(job)
    trial.finish(100, *PROCESSES)
    assert trial.requests() <= IMAGES + len(workers) * OPEN
    trial.check(undisturbed)
