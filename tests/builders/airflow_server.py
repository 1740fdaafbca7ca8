"""A real Airflow: an environment of its own, API server, DAG processor and scheduler as processes, asked over REST."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.builders.servers import cache_folder, free_port

AIRFLOW_VERSION = "3.3.2"
WANTED = [f"apache-airflow=={AIRFLOW_VERSION}", "apache-airflow-providers-cncf-kubernetes"]
SECONDS_TO_START, SECONDS_TO_RUN = 180, 300
ENDED = {"success", "failed"}


def airflow_environment() -> Path:
    """The environment's ``bin``, installed the first time; skips the test where that cannot be."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache_folder() / f"airflow-{AIRFLOW_VERSION}-kubernetes-python{python}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes want it at once
        if not (folder / "ready").exists():
            _install(folder / "env")
            (folder / "ready").touch()
    return folder / "env" / "bin"


def _install(environment: Path) -> None:
    if importlib.util.find_spec("uv") is None:
        pytest.skip("no Airflow: uv, which installs it into an environment of its own, is not installed")
    uv = [sys.executable, "-m", "uv"]
    into = ["--python", str(environment / "bin" / "python"), "--compile-bytecode"]
    for command in ([*uv, "venv", "--clear", "--python", sys.executable, str(environment)],
                    [*uv, "pip", "install", *into, *WANTED]):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or "nothing said").splitlines()[-1]
            pytest.skip(f"no Airflow: {' '.join(WANTED)} could not be installed: {said}")


class Airflow:
    """A running Airflow; its DAGs are the files in ``dags``."""

    def __init__(self, home: Path) -> None:
        self.home, self.dags = home, home / "dags"
        self.bin = airflow_environment()
        self.url = f"http://127.0.0.1:{free_port()}"
        self.environment = self._environment()
        self.dags.mkdir(parents=True)

    def _environment(self) -> dict[str, str]:
        settings = {
            "API__BASE_URL": self.url,
            "API__HOST": "127.0.0.1",
            "API__PORT": self.url.rpartition(":")[2],
            "API__WORKERS": "1",
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__PARALLELISM": "4",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
            "DAG_PROCESSOR__REFRESH_INTERVAL": "2",
            "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(free_port()),
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        }
        mine = {
            name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))
        }
        told = {f"AIRFLOW__{name}": value for name, value in settings.items()}
        path = f"{self.bin}{os.pathsep}{mine['PATH']}"
        return {**mine, **told, "AIRFLOW_HOME": str(self.home), "PATH": path,
                "KUBECONFIG": str(self.home / "kubeconfig")}  # fmt: skip

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``airflow ARGUMENTS``, ended well."""
        return subprocess.run(
            [self.bin / "airflow", *arguments],
            env=self.environment, capture_output=True, text=True, check=True, timeout=SECONDS_TO_START,
        )  # fmt: skip

    def python(self, code: str, *arguments: object) -> Any:
        """What Python ``code`` prints as JSON in Airflow's environment, on its last line."""
        done = subprocess.run(
            [self.bin / "python", "-c", code, *map(str, arguments)],
            env=self.environment, capture_output=True, text=True, check=False, timeout=SECONDS_TO_START,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])

    @contextmanager
    def running(self) -> Iterator[Airflow]:
        """Start what there is to start; all of it, with all that it started, ends with the block."""
        self.command("db", "migrate")
        with ExitStack() as stack:
            for part in ("api-server", "dag-processor", "scheduler"):
                stack.enter_context(self._part(part))
            self.wait_for(lambda: self.get("monitor/health")["scheduler"]["status"] == "healthy")
            yield self

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [self.bin / "airflow", name],
                env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            try:
                yield
            finally:
                _end(process)

    def wait_for(self, holds: Any, limit: float = SECONDS_TO_START) -> None:
        deadline = time.monotonic() + limit
        while True:
            try:
                if holds():
                    return
            except (OSError, KeyError):
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {limit} s; the logs are in {self.home}")
            time.sleep(0.3)

    def get(self, path: str) -> Any:
        """GET of Airflow's REST API."""
        return self._ask(path)

    def _ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        request = urllib.request.Request(f"{self.url}/api/v2/{path}", method=method)
        if "token" in self.__dict__:
            request.add_header("Authorization", f"Bearer {self.token}")
        elif "health" not in path:
            with urllib.request.urlopen(f"{self.url}/auth/token", timeout=60) as answer:
                self.token = json.load(answer)["access_token"]
            return self._ask(path, method, body)
        data = None if body is None else json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, data, timeout=60) as answer:
            return json.load(answer)

    def trigger(self, dag: str, **conf: Any) -> str:
        """Start a run of ``dag`` as soon as Airflow has read its file; gives the run's id."""
        self.wait_for(lambda: self.get(f"dags/{dag}")["is_paused"] is False)
        made = self._ask(f"dags/{dag}/dagRuns", "POST", {"logical_date": None, "conf": conf})
        return made["dag_run_id"]

    def finished(self, dag: str, run: str) -> str:
        """Wait for a run; its state, ``success`` or ``failed``."""
        self.wait_for(lambda: self.get(f"dags/{dag}/dagRuns/{run}")["state"] in ENDED, SECONDS_TO_RUN)
        return self.get(f"dags/{dag}/dagRuns/{run}")["state"]

    def tasks(self, dag: str, run: str) -> dict[str, tuple[str, int]]:
        """State and number of tries of each task of a run."""
        found = self.get(f"dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: (task["state"], task["try_number"]) for task in found}

    def result(self, dag: str, run: str, task: str) -> Any:
        """What a task gave."""
        where = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        value = self.get(where)["value"]
        return json.loads(value) if isinstance(value, str) else value

    def log(self, dag: str, run: str, task: str, attempt: int = 1) -> str:
        """What a task's try wrote into its log."""
        found = self.get(f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{attempt}")
        return "\n".join(str(line.get("event", line)) for line in found["content"])


def _end(process: subprocess.Popen) -> None:
    """End a process and all of its group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
