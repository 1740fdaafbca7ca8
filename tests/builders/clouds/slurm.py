"""A Slurm cluster of this machine alone: its own keys, ports and folders; two nodes of two cores. Needs root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.builders.web.servers import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
SECONDS_TO_START = 60
NODES = ("n1", "n2")
CONFIG = """\
ClusterName=birch
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/ctld.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=3,sched_interval=5
ReturnToService=2
MpiDefault=none
KillWait=10
MailProg=/bin/true
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP
"""


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Mapping[str, str]]:
    """A running cluster: the environment that leads to it. Skips where Slurm is not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        pytest.skip(f"no Slurm: {', '.join(absent)} not found (Debian's packages slurm-wlm and munge)")
    if os.geteuid() != 0:
        pytest.skip("no Slurm: its daemons are started as root here")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path has to be short
    try:
        with _cluster(folder, {**os.environ, "PATH": path}) as environment:
            yield environment
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(slurm_cluster: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands of this test find the cluster; no job of it is left behind."""
    for name, value in slurm_cluster.items():
        monkeypatch.setenv(name, value)
    yield
    subprocess.run(["scancel", "--full", "--user=root"], check=True)
    wait_until(lambda: not ask("squeue", "--noheader"))


@contextmanager
def _cluster(folder: Path, environment: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    _write_config(folder)
    ours = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": environment["PATH"]}
    whole = {**environment, **ours}
    with ExitStack() as daemons:
        daemons.enter_context(_daemon(folder, "munged", _munged(folder), whole))
        wait_until((folder / "munge" / "socket").exists)
        daemons.enter_context(_daemon(folder, "slurmctld", ["slurmctld", "-D"], whole))
        for node in NODES:
            daemons.enter_context(_daemon(folder, node, ["slurmd", "-D", "-N", node], whole))
        wait_until(lambda: ask("sinfo", "--noheader", "--format=%T %D", environment=whole) == "idle 2")
        yield ours


def _write_config(folder: Path) -> None:
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host = socket.gethostname()
    nodes = (
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=2" for node in NODES
    )
    text = CONFIG.format(host=host, port=free_port(), folder=folder, nodes="\n".join(nodes))
    (folder / "slurm.conf").write_text(text)


def _munged(folder: Path) -> list[str]:
    own = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return ["munged", "--foreground", "--force",
            *(f"--{name}={folder}/munge/{file}" for name, file in own.items())]  # fmt: skip


@contextmanager
def _daemon(folder: Path, name: str, command: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    with (folder / f"{name}.out").open("w") as said:
        process = subprocess.Popen(command, env=dict(environment), stdout=said, stderr=said)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ask(*words: str, environment: Mapping[str, str] | None = None) -> str:
    """What a client of Slurm says."""
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def wait_until(holds, seconds: float = SECONDS_TO_START) -> None:
    """Wait for something to hold; fails the test where it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
