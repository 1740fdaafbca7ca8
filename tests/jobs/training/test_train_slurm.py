"""``captionbeam train --on slurm`` on a real Slurm of two nodes: queued again in the middle, stopped, refused."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from captionbeam.capmodel.bundles.contents import read_manifest
from captionbeam.jobs.cli import main
from tests.builders.clouds.slurm import ask, wait_until
from tests.builders.model.training import SMALL, make_data
from tests.builders.running.commands import flags, start

pytestmark = pytest.mark.engines
MODEL = {**SMALL, "device": "cpu", "precision": "fp32", "batch_size": 4, "epochs": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=240)


def arguments(data, output, *more, **chosen):
    pairs = {**data, "output": output, **MODEL, **chosen}
    return ["train", *flags(**pairs), *more]


@contextmanager
def waiting_for(words, said):
    """The command in a process of its own; what it says goes to a file."""
    with said.open("w") as stream:
        process = start(*words, stdout=stream, stderr=stream)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(400)
def test_queued_again_stopped_and_killed_it_gives_the_bundle_of_an_unbroken_run_here(
    data, tmp_path, slurm, capfd
):
    output = tmp_path / "there"
    there = arguments(data, output, "--on", "slurm", nodes=2, poll=0.5, max_hours=0.5)
    with waiting_for(there, tmp_path / "said") as waiting:
        _after_epoch(1, tmp_path / "said")
        job = ask("squeue", "--noheader", "--format=%i")
        subprocess.run(["scontrol", "requeue", job], check=True)
        assert main([*there, "--no-wait"]) == 0
        assert f"on Slurm already: {job} (tail -f " in capfd.readouterr().out
        _after_epoch(3, tmp_path / "said")
        # What Slurm sends to the script some time before the limit is up.
        subprocess.run(["scancel", "--signal=USR1", "--batch", job], check=True)
        _after_epoch(5, tmp_path / "said")
        os.kill(_workers(output)[0], signal.SIGKILL)
        assert waiting.wait(timeout=200) == 0, (tmp_path / "said").read_text()
    log = Path(f"{output}-checkpoints/slurm-{job}.log").read_text()
    assert log.count("workers: 2, going on after") == 3
    # the first node's process and the second's, each time; not where a worker was killed
    assert log.count("; the same command resumes from") == 4
    assert Path(f"{output}-checkpoints/slurm-{job}.failures").read_text() == "1\n"
    said = (tmp_path / "said").read_text()
    assert f"submitted to Slurm: {job} " in said
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("epoch ")] == [
        f"epoch {epoch} of 8" for epoch in range(1, 9)
    ]
    assert main(arguments(data, tmp_path / "here", workers=2)) == 0
    here, found = read_manifest(str(tmp_path / "here")), read_manifest(str(output))
    assert found.sha256 == here.sha256
    assert found.scores == here.scores
    assert found.trained_on == {"platform": "Slurm", "job": f"{job} on birch", "workers": 2, "device": "cpu"}
    assert (
        f"| trained on | Slurm, job {job} on birch, workers: 2, on cpu |"
        in (output / "README.md").read_text()
    )
    assert main(there) == 0
    assert f"nothing to do: {output} holds the finished bundle" in capfd.readouterr().out


def _workers(output):
    """The processes that train for ``output``."""
    ours = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]
    return [
        process.pid
        for process in ours
        if "captionbeam.capmodel.training.worker" in (words := process.info["cmdline"])
        and "torch.distributed.run" not in words
        and f'"output": "{output}"' in words[-1]
    ]


def _after_epoch(epoch, said):
    wait_until(lambda: f"\nepoch {epoch} of" in said.read_text(), seconds=120)


def test_a_job_that_is_cancelled_or_fails_is_one_sentence(data, tmp_path, slurm, capfd):
    held = arguments(data, tmp_path / "held", "--on", "slurm", "--sbatch=--hold", poll=0.2)
    assert main([*held, "--no-wait"]) == 0
    job = ask("squeue", "--noheader", "--format=%i")
    subprocess.run(["scancel", job], check=True)
    assert main([*held, "--no-wait"]) == 0  # a new one: the first is over
    again = ask("squeue", "--noheader", "--format=%i")
    assert int(again) > int(job)
    with waiting_for(held, tmp_path / "said") as waiting:
        wait_until(lambda: f"\n{again}: PENDING (JobHeldUser)" in (tmp_path / "said").read_text())
        subprocess.run(["scancel", again], check=True)
        assert waiting.wait(timeout=60) == 1
    assert f"captionbeam: Slurm ended {again}: CANCELLED" in (tmp_path / "said").read_text()
    capfd.readouterr()
    broken = arguments(data, tmp_path / "broken", "--on", "slurm", poll=0.2, restarts=1, device="cuda")
    assert main(broken) == 1
    said = capfd.readouterr()
    assert ": FAILED (NonZeroExitCode); its log says why: tail -f " in said.err
    (log,) = Path(f"{tmp_path / 'broken'}-checkpoints").glob("slurm-*.log")
    assert log.read_text().count("captionbeam: no device 'cuda': this machine has 0 CUDA devices") == 1


def test_what_slurm_refuses_is_a_wrong_request(data, tmp_path, slurm, capfd):
    words = arguments(data, tmp_path / "bundle", "--on", "slurm", partition="nowhere")
    assert main(words) == 2
    assert "captionbeam: sbatch refuses the job: sbatch: error: " in capfd.readouterr().err
    assert not (tmp_path / "bundle").exists()
