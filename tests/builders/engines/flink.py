"""A Flink 1.19 session cluster: a job manager and two task managers of two slots each, and a Python worker pool.

The distribution is the one inside PyPI's source package, which has no shell scripts: the JVMs are started as those
would, with the options that Flink's own ``BashJavaUtils`` works out.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.builders.engines.jobservers import job_server
from tests.builders.engines.worker_pool import WorkerPool, worker_pool
from tests.builders.running.cached import source_distribution
from tests.builders.running.processes import await_true, run_to_end, running
from tests.builders.web.fetched import need
from tests.builders.web.servers import free_port

FLINK_VERSION = "1.19.3"
TASK_MANAGERS = 2
RUNTIME = "org.apache.flink.runtime"
# One task manager alone has the slots and the network buffers for a job of parallelism 2: the other may die.
# Attempts go on for longer than it takes to be missed.
CONFIGURATION = """\
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: 127.0.0.1
rest.address: 127.0.0.1
rest.port: {rest}
blob.server.port: {blob}
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.numberOfTaskSlots: 2
taskmanager.memory.process.size: 1264m
taskmanager.memory.network.min: 256m
taskmanager.memory.network.max: 256m
taskmanager.memory.managed.size: 64m
taskmanager.memory.jvm-metaspace.size: 192m
cluster.evenly-spread-out-slots: true
heartbeat.interval: 1000
heartbeat.timeout: 6000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 5
restart-strategy.fixed-delay.delay: 2 s
io.tmp.dirs: {tmp}
"""


@dataclass
class FlinkCluster:
    """A running session cluster. ``flags`` send a job to it."""

    rest: int
    home: Path
    jar: Path
    pool: WorkerPool
    folder: Path
    stack: ExitStack
    managers: list[subprocess.Popen] = field(default_factory=list)

    name = "flink"

    @property
    def runner_flags(self) -> list[str]:
        """Which runner, its job server, how many tasks side by side, how much memory the job server has."""
        return ["--runner", "FlinkRunner", "--flink_version", "1.19", "--flink_job_server_jar", str(self.jar),
                "--parallelism", "2", "--job_server_jvm_property=-Xmx384m"]  # fmt: skip

    @property
    def flags(self) -> list[str]:
        """All that a job needs."""
        return [*self.jar_flags, "--flink_master", f"127.0.0.1:{self.rest}"]

    @property
    def jar_flags(self) -> list[str]:
        """All that a jar to submit needs: ``flink run`` says where."""
        return [*self.runner_flags, *self.pool.flags]

    def machines(self) -> list[psutil.Process]:
        """The JVMs that run tasks: the task managers."""
        return [psutil.Process(manager.pid) for manager in self.managers if manager.poll() is None]

    def jobs(self) -> int:
        """How many jobs run."""
        over = ("FINISHED", "FAILED", "CANCELED")
        return sum(job["state"] not in over for job in self.ask("jobs/overview")["jobs"])

    def submit(self, jar: Path) -> None:
        """Run an executable jar, as ``flink run`` does."""
        frontend = _java(self.home, self.folder, "-Xmx384m")
        command = [*frontend, "org.apache.flink.client.cli.CliFrontend", "run", "-m", f"127.0.0.1:{self.rest}",
                   "-p", "2", str(jar)]  # fmt: skip
        run_to_end(command, self.folder / "submit.log", {**os.environ, "FLINK_CONF_DIR": str(self.folder)})

    def ask(self, path: str) -> Any:
        """What the cluster's REST interface says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.rest}/{path}", timeout=10) as answer:
            return json.load(answer)

    def registered(self) -> int:
        """Task managers that the job manager knows; 0 while it does not answer."""
        try:
            return self.ask("overview")["taskmanagers"]
        except OSError:
            return 0

    def mend(self) -> None:
        """Put a task manager in the place of each one that a test killed, and await all."""
        self.managers = [manager for manager in self.managers if manager.poll() is None]
        while len(self.managers) < TASK_MANAGERS:
            log = self.folder / f"taskmanager{len(self.managers)}.log"
            command = _task_manager(self.home, self.folder)
            self.managers.append(self.stack.enter_context(running(command, log)))
        await_true("two task managers", lambda: self.registered() == TASK_MANAGERS)


def _java(home: Path, folder: Path, *options: str) -> list[str]:
    lib = ":".join(str(jar) for jar in sorted((home / "lib").glob("*.jar")))
    logging = f"-Dlog4j.configurationFile=file:{folder}/log4j.properties"
    return [need("java", "Flink"), *options, logging, *OPENED, "-cp", lib]


# what Flink's own scripts open of Java 17 (flink-conf.yaml's env.java.opts.all)
OPENED = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in ("java.lang", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.lang.reflect", "java.text",
                    "java.time", "java.util", "java.util.concurrent", "java.util.concurrent.atomic",
                    "java.util.concurrent.locks")
]  # fmt: skip


def _task_manager(home: Path, folder: Path) -> list[str]:
    """The command of a task manager, its memory as Flink divides it."""
    utils = f"{home}/bin/bash-java-utils.jar:{home}/lib/*"
    asked = subprocess.run(
        [need("java", "Flink"), "-cp", utils, f"{RUNTIME}.util.bash.BashJavaUtils", "GET_TM_RESOURCE_PARAMS",
         "--configDir", str(folder)], capture_output=True, text=True, check=True,
    )  # fmt: skip
    results = [line.partition("BASH_JAVA_UTILS_EXEC_RESULT:")[2] for line in asked.stdout.splitlines()]
    jvm, dynamic = [line.split() for line in results if line]
    main = f"{RUNTIME}.taskexecutor.TaskManagerRunner"
    return [*_java(home, folder, *jvm), main, "--configDir", str(folder), *dynamic]


def _configure(folder: Path) -> int:
    """Write the cluster's configuration; gives the REST port."""
    tmp, rest = folder / "tmp", free_port()
    tmp.mkdir()
    ports = {"rpc": free_port(), "rest": rest, "blob": free_port()}
    (folder / "flink-conf.yaml").write_text(CONFIGURATION.format(tmp=tmp, **ports))
    (folder / "log4j.properties").write_text(
        "rootLogger.level = INFO\nrootLogger.appenderRef.console.ref = Console\nappender.console.name = Console\n"
        "appender.console.type = CONSOLE\nappender.console.layout.type = PatternLayout\n"
        "appender.console.layout.pattern = %d %-5p %c - %m%n\n"
    )
    return rest


@contextmanager
def flink_cluster(folder: Path) -> Iterator[FlinkCluster]:
    """Start all of it; its logs are in ``folder``."""
    need("java", "Flink")
    jar = job_server("flink")
    home = source_distribution("apache-flink-libraries", FLINK_VERSION) / "deps"
    rest, log = _configure(folder), folder / "jobmanager.log"
    main = f"{RUNTIME}.entrypoint.StandaloneSessionClusterEntrypoint"
    command = [*_java(home, folder, "-Xmx512m"), main, "--configDir", str(folder)]
    with ExitStack() as stack:
        stack.enter_context(running(command, log))
        pool = stack.enter_context(worker_pool(folder))
        cluster = FlinkCluster(rest, home, jar, pool, folder, stack)
        await_true("Flink's job manager", lambda: _answers(cluster), log=log)
        cluster.mend()
        yield cluster


def _answers(cluster: FlinkCluster) -> bool:
    try:
        return "taskmanagers" in cluster.ask("overview")
    except OSError:
        return False
