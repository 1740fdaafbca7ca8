"""Vertex AI's job service on this machine: what arrives is held against the published discovery document, and
each replica becomes a process, with the environment that Vertex AI documents for custom containers.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from google.cloud.aiplatform_v1 import CustomJob

from tests.builders.clouds.discovery import complaints
from tests.builders.clouds.machines import Machines
from tests.builders.clouds.rest import JsonHandler, service_account, serving
from tests.builders.web.servers import free_port

DOCUMENT, SCHEMA = "aiplatform.v1", "GoogleCloudAiplatformV1CustomJob"
JOBS = re.compile(r"/v1/(projects/[^/]+/locations/[^/]+)/customJobs(?:/(\d+))?")


class FakeVertex:
    """The service. ``requests`` are the bodies that arrived, enums by name; ``jobs`` what became of them.

    ``hold``: jobs stay queued until it is cleared. ``lose(job, machine)`` takes a machine away.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.requests, self.jobs = folder, [], {}  # type: ignore[var-annotated]
        self.machines: dict[str, Machines] = {}
        self.hold = threading.Event()
        self._lost: dict[str, bool] = {}
        self._ending = threading.Event()

    def create(self, parent: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """``customJobs.create``. Raises ValueError with what the document does not know."""
        job = json.loads(CustomJob.to_json(CustomJob.from_json(json.dumps(body)), use_integers_for_enums=False,
                                           always_print_fields_with_no_presence=False))  # fmt: skip
        wrong = [*complaints(job, SCHEMA, DOCUMENT), *_unknown(body, job)]
        if wrong:
            raise ValueError("; ".join(wrong))
        self.requests.append((parent, job))
        name = f"{parent}/customJobs/{1000 + len(self.requests)}"
        self.jobs[name] = {**job, "name": name, "state": "JOB_STATE_PENDING"}
        threading.Thread(target=self._work, args=(name,), daemon=True).start()
        return self.jobs[name]

    def lose(self, name: str, machine: int) -> None:
        """A spot machine is taken away; another comes for it."""
        self._lost[name] = True
        self.machines[name].lose(machine)

    def close(self) -> None:
        """End whatever is still at work."""
        self._ending.set()
        for machines in self.machines.values():
            machines.end()

    def _work(self, name: str) -> None:
        job = self.jobs[name]
        while self.hold.is_set():
            time.sleep(0.05)
        spec = job["jobSpec"]
        machines = self.machines[name] = Machines(self.folder / name, self._disks())
        status = self._run(name, machines, spec)
        while self._lost.pop(name, False) and spec["scheduling"]["restartJobOnWorkerRestart"]:
            machines.end()
            status = self._run(name, machines, spec)
        machines.end()
        if status:
            said = f"The replica workerpool0-0 exited with a non-zero status of {status}."
            job["error"] = {"code": 3, "message": said}
        job["state"] = "JOB_STATE_FAILED" if status else "JOB_STATE_SUCCEEDED"

    def _disks(self) -> dict[str, str]:
        """Where a machine sees buckets, and what it has for itself."""
        return {"/gcs": str(self.folder / "gcs"), "/tmp": str(self.folder / "tmp")}

    def _run(self, name: str, machines: Machines, spec: Mapping[str, Any]) -> int:
        """One try: the first machine's end is the end, or that of any which is lost."""
        machines.start(_commands(name, spec))
        self.jobs[name]["state"] = "JOB_STATE_RUNNING"
        while (status := machines.poll()[0]) is None and not self._ending.is_set():
            time.sleep(0.05)
        return 1 if status is None else status


def _commands(name: str, spec: Mapping[str, Any]) -> list[tuple[list[str], dict[str, str]]]:
    pools, commands = spec["workerPoolSpecs"], []
    cluster = {
        f"workerpool{pool}": [f"127.0.0.1:{free_port()}" for _ in range(int(found["replicaCount"]))]
        for pool, found in enumerate(pools)
    }
    for pool, found in enumerate(pools):
        for index in range(int(found["replicaCount"])):
            task = {"type": f"workerpool{pool}", "index": index, "trial": ""}
            described = {"cluster": cluster, "environment": "cloud", "task": task}
            own = {item["name"]: item["value"] for item in found["containerSpec"].get("env", [])}
            _, project, *_, number = name.split("/")
            known = {
                "CLUSTER_SPEC": json.dumps(described),
                "CLOUD_ML_JOB_ID": number,
                "CLOUD_ML_PROJECT_ID": project,
            }
            commands.append((found["containerSpec"]["command"], {**own, **known}))
    return commands


def _unknown(sent: Any, read: Any, where: str = "") -> Iterator[str]:
    """Fields that were sent and that the service's own messages do not have."""
    if isinstance(sent, dict):
        for name, value in sent.items():
            if name not in read and value not in ("", 0, False, [], {}):
                yield f"{where}.{name} is unknown"
            elif name in read:
                yield from _unknown(value, read[name], f"{where}.{name}")
    elif isinstance(sent, list):
        for number, value in enumerate(sent):
            yield from _unknown(value, read[number], f"{where}[{number}]")


def _handler(service: FakeVertex) -> type[JsonHandler]:
    class Handler(JsonHandler, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            parent, number = self._path()
            body = json.loads(self.body())
            if number is not None or not self.headers.get("Authorization", "").startswith("Bearer "):
                self.answer(401, _error(401, "UNAUTHENTICATED", "no credentials"))
                return
            try:
                self.answer(200, service.create(parent, body))
            except ValueError as err:
                self.answer(400, _error(400, "INVALID_ARGUMENT", str(err)))

        def do_GET(self) -> None:
            parent, number = self._path()
            if number is None:
                wanted = re.search(r"filter=labels\.captionbeam-run%3D%22([\w-]+)%22", self.path)
                assert wanted, self.path
                found = [
                    job for job in service.jobs.values() if job["labels"]["captionbeam-run"] == wanted[1]
                ]
                self.answer(200, {"customJobs": found})
                return
            job = service.jobs.get(f"{parent}/customJobs/{number}")
            self.answer(200 if job else 404, job or _error(404, "NOT_FOUND", "no such job"))

        def _path(self) -> tuple[str, str | None]:
            found = JOBS.fullmatch(self.path.partition("?")[0])
            assert found, self.path
            return found[1], found[2]

    return Handler


def _error(code: int, status: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": message}}


@pytest.fixture
def vertex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeVertex, str]]:
    """The service and its address; credentials of a service account of ``a-project`` are in the environment."""
    service = FakeVertex(tmp_path / "vertex")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", service_account(tmp_path))
    with serving(_handler(service)) as address:
        yield service, address
        service.close()
