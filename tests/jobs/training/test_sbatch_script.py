"""The batch script of ``captionbeam train --on slurm``, run by bash; ``srun`` and Slurm's clients are small scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from captionbeam.jobs.cli import main
from tests.builders.model.training import SMALL, make_data
from tests.builders.running.commands import flags

CLIENTS = {
    "scontrol": 'case $1 in requeue) echo requeued >>said ;; *) echo "n1 NodeAddr=127.0.0.1 x" ;; esac',
    "scancel": 'echo "$*" >>said; kill -TERM "$(cat step)"',
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=40)


def words(data, output, *more, on="slurm", **chosen):
    pairs = {**data, "output": output, **SMALL, "device": "cpu", **chosen}
    return ["train", *flags(**pairs), "--on", on, "--dry-run", *more]


def script_of(capsys, *arguments, **chosen):
    capsys.readouterr()
    assert main(words(*arguments, **chosen)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def started(script, folder, srun):
    """bash at work on the script in ``folder``, whose srun does what ``srun`` says."""
    for name, text in {**CLIENTS, "srun": srun}.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    ours = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n1",
    }
    return subprocess.Popen(["bash", "-c", script], cwd=folder, env={**os.environ, **ours}, stderr=subprocess.PIPE,
                            text=True)  # fmt: skip


def test_a_step_that_ends_at_once_leaves_its_status(data, tmp_path, capsys):
    script = script_of(capsys, data, tmp_path / "bundle")
    for _ in range(3):
        script_at_work = started(script, tmp_path, "exit 2")
        said = script_at_work.communicate(timeout=60)[1]
        assert (script_at_work.returncode, said) == (2, "")
    assert not (tmp_path / "said").exists()


def test_a_crash_is_queued_again_as_often_as_restarts_say(data, tmp_path, capsys):
    (tmp_path / "bundle-checkpoints").mkdir()
    script = script_of(capsys, data, tmp_path / "bundle", "--restarts", "1")
    assert [started(script, tmp_path, "exit 1").wait(timeout=60) for _ in range(2)] == [1, 1]
    assert (tmp_path / "said").read_text() == "requeued\n"


def test_the_signal_before_the_limit_stops_the_step_and_queues_the_job_again(data, tmp_path, capsys):
    script = script_of(capsys, data, tmp_path / "bundle")
    at_work = started(script, tmp_path, "trap 'sleep 0.2; exit 1' TERM; echo $$ >step.new; mv step.new step\n"
                                        "while :; do sleep 0.05; done")  # fmt: skip
    while not (tmp_path / "step").exists():
        time.sleep(0.02)
    at_work.send_signal(signal.SIGUSR1)
    assert at_work.wait(timeout=60) == 1
    assert (tmp_path / "said").read_text() == "--signal=TERM 7.0\nrequeued\n"


@pytest.mark.parametrize(
    "option", ["--sbatch", "--partition", "--account", "--qos", "--constraint", "--memory"]
)
def test_no_option_begins_another_line_of_the_script(data, tmp_path, capsys, option):
    assert main(words(data, tmp_path / "bundle", f"{option}=x\nrm -r y")) == 2
    assert "rm -r y" in (said := capsys.readouterr().err)
    assert said.endswith("; expected one line\n")
    assert main(words(data, f"{tmp_path}/a\nb")) == 2
    assert "a\\nb'; expected one line" in capsys.readouterr().err


def test_each_option_reaches_the_script(data, tmp_path, capsys):
    mine = {"partition": "gpu", "account": "photos", "qos": "high", "constraint": "a100|h100", "gpus": 8, "cpus": 64,
            "memory": "500G", "max_hours": 2, "stop_seconds": 90, "nodes": 2}  # fmt: skip
    script = script_of(
        capsys, data, tmp_path / "bundle", "--sbatch=--exclusive", "--activate", "/env/activate", **mine
    )
    lines = script.splitlines()
    for setting in ("partition=gpu", "account=photos", "qos=high", "constraint='a100|h100'", "gpus-per-node=8",
                    "cpus-per-task=64", "mem=500G", "time=120", "nodes=2", "signal=B:USR1@90", "exclusive",
                    "dependency=singleton"):  # fmt: skip
        assert f"#SBATCH --{setting}" in lines
    assert "source /env/activate" in lines
    inside = script_of(capsys, data, tmp_path / "bundle", "--container", "c.sif", **mine)
    assert "apptainer exec --nv c.sif captionbeam train " in inside
    assert "source " not in inside
