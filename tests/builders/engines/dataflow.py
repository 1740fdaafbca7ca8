"""A Dataflow service of one machine: its REST API over HTTP, judged by the published description of it.

A job goes through its states as ``plays`` says; by default its pipeline is really run, from what was staged in the
bucket, by a worker that has only its image and what the job sent (see ``worker_image.py`` and ``dataflow_vm.py``).

Beam takes no endpoint with a port but localhost, for which it makes other jobs. So the service has a name, and is an
HTTP proxy that leads there.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from google.cloud import dataflow
from google.protobuf import json_format

from tests.builders.clouds.discovery import complaints, find_call
from tests.builders.clouds.rest import JsonHandler, service_account
from tests.builders.engines.docker import kill
from tests.builders.engines.worker_image import BOOT, OFFLINE, Container

ENDPOINT = "http://sandbox.dataflow.test"  # Beam's client speaks REST where its endpoint's URL has "sandbox"
ENDED = ("JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")
Play = Callable[["Job"], None]
PASSED = ("STORAGE_", "FSSPEC_", "GCSFS_")  # to containers: where storage is found here


class Job:
    """One job: the request as it came, and its states and messages since."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request, self.lock = request, threading.Lock()
        self.id = f"2026-01-02_03_04_05-{uuid.uuid4().int % 10**19}"
        self.states = ["JOB_STATE_PENDING"]
        self.messages: list[dict[str, Any]] = []
        self.asked, self.cancelled = threading.Event(), threading.Event()

    def become(self, state: str) -> None:
        """The next state; none follows an end."""
        with self.lock:
            if self.states[-1] not in ENDED:
                self.states.append(state)

    def say(self, importance: str, text: str) -> None:
        """One message, as workers and the service write them."""
        message = {"id": f"m{len(self.messages)}", "time": _now(), "messageText": text}
        self.messages.append({**message, "messageImportance": f"JOB_MESSAGE_{importance}"})

    def shown(self) -> dict[str, Any]:
        """The job as the service tells it."""
        asked = {name: value for name, value in self.request.items() if name not in ("environment", "steps")}
        return {**asked, "id": self.id, "currentState": self.states[-1], "createTime": _now()}


def scripted(*steps: tuple[str, str]) -> Play:
    """A play: one after the other, a state (``RUNNING``) or the importance of a message (``ERROR``), and its text.

    A state lasts until somebody has asked for it.
    """

    def play(job: Job) -> None:
        for what, text in steps:
            if what in ("DEBUG", "DETAILED", "BASIC", "WARNING", "ERROR"):
                job.say(what, text)
            else:
                job.asked.wait()
                job.asked.clear()
                job.become(f"JOB_STATE_{what}")

    return play


def running(worker: Container, folder: Path) -> Play:
    """The play that runs the pipeline in ``worker``, which shares a folder below ``folder`` with this machine."""

    def play(job: Job) -> None:
        place = folder / job.id
        place.mkdir(parents=True)
        (place / "job.json").write_text(json.dumps(job.request))
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
        entrypoint = [BOOT, f"--semi_persist_dir={place}"]
        command = worker.command(entrypoint, env={**passed, **OFFLINE, "HOME": str(place)}, mounts=(place,))
        (place / "entrypoint.json").write_text(json.dumps(command))
        job.become("JOB_STATE_RUNNING")
        job.say("BASIC", "Starting 1 workers ...")
        command = [sys.executable, Path(__file__).with_name("dataflow_vm.py"), place]
        bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with (place / "log").open("wb") as log:
            machine = subprocess.Popen(
                command, cwd=place, env=bare, stdout=log, stderr=log, start_new_session=True
            )
            while machine.poll() is None and not job.cancelled.wait(0.2):
                pass
            machine.terminate()
            machine.wait()
            kill(place)
        if job.cancelled.is_set():
            job.become("JOB_STATE_CANCELLED")
        elif machine.returncode == 0:
            job.become("JOB_STATE_DONE")
        else:
            job.say(
                "ERROR", (place / "error").read_text() if (place / "error").exists() else _tail(place / "log")
            )
            job.become("JOB_STATE_FAILED")

    return play


class Service(ThreadingHTTPServer):
    """The server. ``jobs`` by id; ``plays``: what becomes of the next jobs, in order, the last of them for the rest."""

    daemon_threads = True

    def __init__(self, plays: Sequence[Play]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plays, self.jobs, self.refused = list(plays), dict[str, Job](), list[str]()
        self.threads: list[threading.Thread] = []

    def environment(self, folder: Path) -> dict[str, str]:
        """What leads a launcher here, with the key of a service account that is nobody's, below ``folder``."""
        address = f"http://127.0.0.1:{self.server_port}"
        key = service_account(folder, f"{address}/token")
        return {
            "HTTP_PROXY": address,
            "NO_PROXY": "127.0.0.1,localhost",
            "GOOGLE_APPLICATION_CREDENTIALS": key,
        }

    @property
    def job(self) -> Job:
        """The newest."""
        return list(self.jobs.values())[-1]

    def start(self, request: dict[str, Any]) -> Job:
        job = Job(request)
        self.jobs[job.id] = job
        play = self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]
        self.threads.append(threading.Thread(target=play, args=(job,), daemon=True))
        self.threads[-1].start()
        return job


@contextmanager
def dataflow_service(*plays: Play) -> Iterator[Service]:
    """A service until the block ends; jobs that still run are cancelled then."""
    service = Service(plays)
    serving = threading.Thread(target=service.serve_forever, daemon=True)
    serving.start()
    try:
        yield service
    finally:
        for job in service.jobs.values():
            job.cancelled.set()
            job.asked.set()
        for thread in service.threads:
            thread.join()
        service.shutdown()
        service.server_close()
    assert not service.refused, service.refused


class _Handler(JsonHandler):
    server: Service
    calls: ClassVar[dict[str, str]] = {
        "dataflow.projects.locations.jobs.create": "_create",
        "dataflow.projects.locations.jobs.get": "_get",
        "dataflow.projects.locations.jobs.update": "_update",
        "dataflow.projects.locations.jobs.getMetrics": "_metrics",
        "dataflow.projects.locations.jobs.messages.list": "_messages",
    }

    def _reply(self) -> None:
        parts, sent = urlsplit(self.path), self.body()
        if parts.path == "/token":  # asked with a signed claim, not with JSON
            self.answer(200, {"access_token": "nobody", "expires_in": 3600, "token_type": "Bearer"})
            return
        body = json.loads(sent) if sent else None
        try:
            call = find_call(self.command, parts.path, dict(parse_qsl(parts.query)))
            request = _named(body, call.body) if call.body else {}
            answer = getattr(self, self.calls[call.id])(call.path, request)
        except (LookupError, ValueError) as err:
            self.server.refused.append(str(err))
            self.answer(400, {"error": {"code": 400, "message": str(err), "status": "INVALID_ARGUMENT"}})
        else:
            self.answer(200, answer)

    do_GET = do_POST = do_PUT = _reply  # noqa: N815

    def _create(self, path: dict[str, str], request: dict[str, Any]) -> dict[str, Any]:
        job = self.server.start({**request, "projectId": path["projectId"], "location": path["location"]})
        return job.shown()

    def _get(self, path: dict[str, str], _: dict[str, Any]) -> dict[str, Any]:
        job = self.server.jobs[path["jobId"]]
        shown = job.shown()
        job.asked.set()
        return shown

    def _update(self, path: dict[str, str], request: dict[str, Any]) -> dict[str, Any]:
        job = self.server.jobs[path["jobId"]]
        if request.get("requestedState") != "JOB_STATE_CANCELLED":
            raise ValueError(f"{request}: only a cancel is played here")
        job.cancelled.set()
        job.become("JOB_STATE_CANCELLED")
        return job.shown()

    def _metrics(self, path: dict[str, str], _: dict[str, Any]) -> dict[str, Any]:
        return {"metricTime": _now(), "metrics": []} if path["jobId"] in self.server.jobs else {}

    def _messages(self, path: dict[str, str], _: dict[str, Any]) -> dict[str, Any]:
        return {"jobMessages": self.server.jobs[path["jobId"]].messages}


def _named(body: Any, schema: str) -> dict[str, Any]:
    """The request with its enums by name: on the wire Beam's client numbers them. Raises ValueError."""
    message = json_format.Parse(json.dumps(body), getattr(dataflow, schema)()._pb)
    found = json_format.MessageToDict(message)
    if wrong := complaints(found, schema):
        raise ValueError("; ".join(wrong))
    return found


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-4000:]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
