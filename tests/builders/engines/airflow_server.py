"""A real Airflow: an environment of its own, API server, DAG processor and scheduler as processes, asked over REST."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.builders.running.cached import cached
from tests.builders.running.processes import await_true, running
from tests.builders.web.fetched import fetch, need
from tests.builders.web.servers import free_port

AIRFLOW_VERSION = "3.3.2"
WANTED = [f"apache-airflow=={AIRFLOW_VERSION}", "apache-airflow-providers-cncf-kubernetes"]
SECONDS_TO_START, SECONDS_TO_RUN = 180, 300
ENDED = {"success", "failed"}


def airflow_environment() -> Path:
    """The environment's ``bin``, installed the first time; skips the test where uv is missing."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return cached(f"airflow-{AIRFLOW_VERSION}-kubernetes-python{python}", _install) / "bin"


def _install(environment: Path) -> None:
    uv = need("uv", "Airflow")
    # Relocatable, as it moves to its place when it is whole
    fetch(
        [uv, "venv", "--allow-existing", "--relocatable", "--python", sys.executable, str(environment)],
        "Airflow",
    )
    into = ["--python", str(environment / "bin" / "python"), "--compile-bytecode"]
    fetch([uv, "pip", "install", *into, *WANTED], "Airflow")


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
                command = [str(self.bin / "airflow"), part]
                stack.enter_context(running(command, self.home / f"{part}.log", self.environment))
            self.wait_for("a healthy scheduler", self._is_healthy, SECONDS_TO_START)
            yield self

    def wait_for(self, what: str, is_so: Callable[[], bool], seconds: float = SECONDS_TO_RUN) -> None:
        """Return once ``is_so()``, asked of an API that may not be up yet."""

        def answered() -> bool:
            try:
                return is_so()
            except (OSError, KeyError):
                return False

        await_true(f"{what} (logs: {self.home})", answered, seconds)

    def _is_healthy(self) -> bool:
        return self.get("monitor/health")["scheduler"]["status"] == "healthy"

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
        self.wait_for(f"DAG {dag}", lambda: self.get(f"dags/{dag}")["is_paused"] is False)
        made = self._ask(f"dags/{dag}/dagRuns", "POST", {"logical_date": None, "conf": conf})
        return made["dag_run_id"]

    def finished(self, dag: str, run: str) -> str:
        """Wait for a run; its state, ``success`` or ``failed``."""
        self.wait_for(f"the end of {run}", lambda: self.get(f"dags/{dag}/dagRuns/{run}")["state"] in ENDED)
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
