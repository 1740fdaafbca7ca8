"""A Spark 3.5 standalone cluster: a master and two workers of one core each, and a Python worker pool."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.builders.engines.jobservers import job_server
from tests.builders.engines.worker_pool import WorkerPool, worker_pool
from tests.builders.running.cached import source_distribution
from tests.builders.running.processes import await_true, children_of, listens, run_to_end, running
from tests.builders.web.fetched import need
from tests.builders.web.servers import free_port

SPARK_VERSION = "3.5.0"
WORKERS = 2


@dataclass
class SparkCluster:
    """A running cluster. ``flags`` send a job to it."""

    master: str
    home: Path
    jar: Path
    pool: WorkerPool
    folder: Path
    stack: ExitStack
    ui: int
    workers: list[subprocess.Popen] = field(default_factory=list)

    name = "spark"

    @property
    def runner_flags(self) -> list[str]:
        """Which runner, where its job server is, and how much memory an executor has."""
        memory = [
            f"--job_server_jvm_property={value}" for value in ("-Xmx640m", "-Dspark.executor.memory=640m")
        ]
        return ["--runner", "SparkRunner", "--spark_master_url", self.master,
                "--spark_job_server_jar", str(self.jar), *memory]  # fmt: skip

    @property
    def flags(self) -> list[str]:
        """All that a job needs."""
        return [*self.runner_flags, *self.pool.flags]

    @property
    def jar_flags(self) -> list[str]:
        """All that a jar to submit needs."""
        return self.flags

    def machines(self) -> list[psutil.Process]:
        """The JVMs that run tasks: the executors."""
        return [jvm for worker in self.workers for jvm in children_of(worker, "CoarseGrainedExecutorBackend")]

    def jobs(self) -> int:
        """How many jobs run."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ui}/json/", timeout=10) as answer:
            return len(json.load(answer)["activeapps"])

    def submit(self, jar: Path) -> None:
        """Run an executable jar, as docs/spark.md says."""
        command = [str(self.home / "bin/spark-submit"), "--master", self.master, "--driver-memory", "640m",
                   "--conf", "spark.executor.memory=640m", str(jar)]  # fmt: skip
        run_to_end(command, self.folder / "submit.log", spark_environment(self.home))

    def add_worker(self) -> None:
        """Start one more machine."""
        log = self.folder / f"worker{len(self.workers)}.log"
        command = [str(self.home / "bin/spark-class"), "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1",
                   "--webui-port", str(free_port()), "--cores", "1", "--memory", "768m",
                   "--work-dir", str(self.folder / f"work{len(self.workers)}"), self.master]  # fmt: skip
        worker = self.stack.enter_context(running(command, log, spark_environment(self.home)))
        self.workers.append(worker)
        await_true("a Spark worker", lambda: "Successfully registered" in log.read_text(), log=log)

    def mend(self) -> None:
        """Put a machine in the place of each one that a test killed."""
        dead = [worker for worker in self.workers if worker.poll() is not None]
        for worker in dead:
            self.workers.remove(worker)
        while len(self.workers) < WORKERS:
            self.add_worker()


def spark_environment(home: Path) -> Mapping[str, str]:
    """What Spark's scripts read."""
    own = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "192m"}
    return {**os.environ, **own}


@contextmanager
def spark_cluster(folder: Path) -> Iterator[SparkCluster]:
    """Start all of it; its logs are in ``folder``."""
    need("java", "Spark")
    jar, home = job_server("spark"), source_distribution("pyspark", SPARK_VERSION) / "deps"
    port, ui, log = free_port(), free_port(), folder / "master.log"
    command = [str(home / "bin/spark-class"), "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1",
               "--port", str(port), "--webui-port", str(ui)]  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(running(command, log, spark_environment(home)))
        await_true("Spark's master", lambda: listens(port), log=log)
        pool = stack.enter_context(worker_pool(folder))
        cluster = SparkCluster(f"spark://127.0.0.1:{port}", home, jar, pool, folder, stack, ui)
        cluster.mend()
        yield cluster
