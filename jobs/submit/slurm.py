"""Slurm: a batch script that runs one torchrun per machine; locations are on a shared disk or are URLs."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from captionbeam.jobs.options.shared import require
from captionbeam.jobs.submit.target_options import TargetOptions
from captionbeam.jobs.submit.training_target import (
    Job,
    Order,
    Phase,
    State,
    TrainingTarget,
    last_line,
    run_client,
)
from captionbeam.schemas.errors import RequestError, SystemicError
from captionbeam.schemas.storage import files

UNREACHED = re.compile(r"contact slurm controller|timed out|connect failure|try again", re.IGNORECASE)
WAITING = {
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT",
}  # fmt: skip
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
SCRIPT = """\
#!/bin/bash
{settings}
set -uo pipefail
{prepare}
# The first machine of the job, by the address that Slurm reaches it at.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node "$first" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')
port=$((20000 + SLURM_JOB_ID % 20000))

# Shortly before the time limit: write a checkpoint, stop, and be queued again.
ending=
trap 'ending=yes; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1
srun {command} \\
  --rendezvous "$address:$port" &
step=$!
status=0
wait "$step" || status=$?
while [ "$status" -gt 128 ] && kill -0 "$step" 2>/dev/null; do # it was the signal that ended the wait, not the step
  status=0
  wait "$step" || status=$?
done

case $status in 0 | 2) exit "$status" ;; esac # done, or a wrong request: another try would end alike
if [ -z "$ending" ]; then
  echo "$status" >>{failures}
  [ "$(wc -l <{failures})" -le {restarts} ] || exit "$status"
fi
scontrol requeue "$SLURM_JOB_ID"
exit "$status"
"""


class Slurm(TrainingTarget):
    """Uses sbatch, squeue and scontrol, on a login node."""

    name, title = "slurm", "Slurm"
    logs_are_seen = True
    secrets = (
        "a file on the shared disk, or in the environment, which sbatch passes on (FSSPEC_S3_SECRET, ...)"
    )
    gathering = ()

    def check(self, flags: TargetOptions) -> None:
        if flags.max_hours and flags.max_hours * 3600 <= flags.stop_seconds:
            raise RequestError(
                f"--max-hours {flags.max_hours:g} is less than the {flags.stop_seconds} seconds before its end in "
                "which a checkpoint is written; expected more (--stop-seconds changes them)"
            )

    def on_workers(self, place: str, flags: TargetOptions) -> str:
        _check_line("a place", place)
        return place  # assumes a shared disk; each machine checks it before it starts

    def request(self, order: Order) -> str:
        settings = _settings(order)
        for setting in settings:
            _check_line("an option of sbatch", setting)
        image = order.flags.container
        container = ["apptainer", "exec", *(["--nv"] if order.flags.gpus else []), image] if image else []
        return SCRIPT.format(
            settings="\n".join(f"#SBATCH {setting}" for setting in settings),
            prepare=_prepare(order.flags),
            command=shlex.join([*container, *order.command]),
            failures=f'{shlex.quote(_log_folder(order))}/slurm-"$SLURM_JOB_ID".failures',
            restarts=order.flags.restarts,
        )

    def find_active(self, order: Order) -> Job | None:
        done = run_client(["squeue", "--me", "--noheader", f"--name={order.name}", "--format=%i"])
        if done.returncode:
            raise SystemicError(f"squeue does not answer: {last_line(done.stderr)}")
        return _job(done.stdout.split()[0], order) if done.stdout.split() else None

    def submit(self, order: Order) -> Job:
        os.makedirs(_log_folder(order), exist_ok=True)
        done = run_client(["sbatch", "--parsable"], self.request(order))
        if done.returncode:
            message = last_line(done.stderr)
            kind = SystemicError if UNREACHED.search(message) else RequestError
            raise kind(f"sbatch refuses the job: {message}")
        return _job(done.stdout.strip().partition(";")[0], order)

    def state(self, job: Job, order: Order) -> State:
        done = run_client(["scontrol", "show", "job", "--oneliner", job.id])
        if done.returncode:
            if "Invalid job id" in done.stderr:  # Slurm forgets jobs minutes after their end
                return _remembered(job)
            raise SystemicError(f"scontrol does not answer: {last_line(done.stderr)}")
        facts = dict(re.findall(r"(\w+)=(\S*)", done.stdout))
        reason = facts.get("Reason", "None")
        return _as_state(facts["JobState"], "" if reason == "None" else f" ({reason})")


def _settings(order: Order) -> list[str]:
    flags = order.flags
    minutes = flags.max_hours and max(1, round(flags.max_hours * 60))
    chosen = {
        "gpus-per-node": flags.gpus,
        "cpus-per-task": flags.cpus,
        "mem": flags.memory,
        "time": minutes,
        "partition": flags.partition,
        "account": flags.account,
        "qos": flags.qos,
        "constraint": flags.constraint,
    }
    return [
        f"--job-name={order.name}",
        "--dependency=singleton",
        f"--nodes={order.nodes}",
        "--ntasks-per-node=1",
        *(f"--{name}={shlex.quote(str(value))}" for name, value in chosen.items() if value is not None),
        f"--output={shlex.quote(_log_folder(order).replace('%', '%%') + '/slurm-%j.log')}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{flags.stop_seconds}",
        *flags.sbatch,
    ]


def _prepare(flags: TargetOptions) -> str:
    """Returns the line that activates the environment, by default the current one."""
    here = Path(sys.prefix) / "bin" / "activate"
    script = flags.activate or (str(here) if sys.prefix != sys.base_prefix and here.exists() else None)
    return f"source {shlex.quote(script)}\n" if script and not flags.container else ""


def _log_folder(order: Order) -> str:
    """Returns the checkpoints' folder, or the current folder if they are in a bucket."""
    folder = order.options.checkpoints
    return folder if files.is_local(files.split(folder)[0]) else os.getcwd()


def _check_line(what: str, text: str) -> None:
    """Raises RequestError if ``text`` has a line break, which would start another line of the script."""
    require(not re.search(r"[\r\n]", text), f"{what} is {text!r}; expected one line")


def _job(job: str, order: Order) -> Job:
    return Job(job, f"tail -f {_log_folder(order)}/slurm-{job}.log")


def _as_state(word: str, more: str = "") -> State:
    if word in WAITING or word in RUNNING:
        return State(Phase.WAITING if word in WAITING else Phase.RUNNING, f"{word}{more}")
    return State(Phase.DONE if word == "COMPLETED" else Phase.FAILED, f"{word}{more}")


def _remembered(job: Job) -> State:
    """Returns the state from Slurm's accounting; without it, the bundle decides."""
    done = run_client(["sacct", "--noheader", "--allocations", "--format=State%30", f"--jobs={job.id}"])
    words = done.stdout.split()
    return _as_state(words[0]) if done.returncode == 0 and words else State(Phase.DONE, "over, and forgotten")


TARGET = Slurm()
