"""Kubernetes: a TrainJob of Kubeflow Trainer, or a plain JobSet, through kubectl."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from captionbeam.jobs.options.shared import require
from captionbeam.jobs.submit import manifests
from captionbeam.jobs.submit.manifests import parse_mount
from captionbeam.jobs.submit.target_options import TargetOptions
from captionbeam.jobs.submit.training_target import (
    Job,
    Order,
    Phase,
    State,
    TrainingTarget,
    last_line,
    remote_place,
    run_client,
)
from captionbeam.schemas.errors import RequestError, SystemicError

RESOURCES = {"trainjob": "trainjobs.trainer.kubeflow.org", "jobset": "jobsets.jobset.x-k8s.io"}
DONE = {"Complete", "Completed"}
REFUSED = re.compile(
    r"invalid|forbidden|not found|unknown field|denied|no matches for kind|already exists|doesn't have"
)


class Kubernetes(TrainingTarget):
    """Locations are in buckets, or on volumes that the launcher can access too."""

    name, title = "kubernetes", "Kubernetes"
    secrets = "the workers' environment (--env-secret FSSPEC_S3_SECRET=NAME:KEY), or in a file on a --volume"

    def check(self, flags: TargetOptions) -> None:
        require(bool(flags.image), "--on kubernetes needs --image, the container that the workers run")
        for mount in flags.volume:
            parse_mount(mount)
        for taint in flags.toleration:
            manifests.toleration(taint)
        for given in flags.env_secret:
            manifests.secret_variable(given)

    def on_workers(self, place: str, flags: TargetOptions) -> str:
        mounts = [parse_mount(text) for text in flags.volume]
        for mount in mounts:
            if (found := mount.on_workers(place)) is not None:
                return found
        if "://" in place:
            return remote_place(place, self.title, "a bucket's URL")
        below = f"a place below {' or '.join(mount.here for mount in mounts)}"
        expected = below if mounts else "--volume CLAIM:PATH with the place below PATH"
        raise RequestError(f"{place!r} is on no volume of the workers; expected {expected} or a bucket's URL")

    def request(self, order: Order) -> str:
        made = manifests.trainjob(order) if order.flags.kind == "trainjob" else manifests.jobset(order)
        return str(yaml.safe_dump(made, sort_keys=False, width=100))

    def find_active(self, order: Order) -> Job | None:
        state = self._current(order)
        return self._job(order) if state and state.phase in (Phase.WAITING, Phase.RUNNING) else None

    def submit(self, order: Order) -> Job:
        resource = RESOURCES[order.flags.kind]
        _kubectl(order.flags, "delete", resource, order.name, "--ignore-not-found")  # a finished earlier job
        done = run_client(_words(order.flags, "create", "-f", "-"), self.request(order))
        if done.returncode:
            kind = RequestError if REFUSED.search(done.stderr.lower()) else SystemicError
            raise kind(f"kubectl create refuses the job: {' '.join(done.stderr.split())}")
        return self._job(order)

    def state(self, job: Job, order: Order) -> State:
        return self._current(order) or State(Phase.FAILED, "deleted")

    def _current(self, order: Order) -> State | None:
        resource = RESOURCES[order.flags.kind]
        text = _kubectl(order.flags, "get", resource, order.name, "--ignore-not-found", "-o", "json")
        return _as_state(json.loads(text).get("status") or {}) if text.strip() else None

    def _job(self, order: Order) -> Job:
        pods = f"--selector=jobset.sigs.k8s.io/jobset-name={order.name}"
        where = _words(order.flags, "logs", "--prefix", "--tail=-1", pods)
        return Job(f"{order.flags.kind} {order.name}", " ".join(where))


def _words(flags: TargetOptions, *words: str) -> list[str]:
    chosen = {"context": flags.context, "namespace": flags.namespace}
    return ["kubectl", *(f"--{name}={value}" for name, value in chosen.items() if value), *words]


def _kubectl(flags: TargetOptions, *words: str) -> str:
    done = run_client(_words(flags, *words))
    if done.returncode:
        message = last_line(done.stderr)
        kind = RequestError if REFUSED.search(message.lower()) else SystemicError
        raise kind(f"kubectl {words[0]} does not answer: {message}")
    return done.stdout


def _as_state(status: Mapping[str, Any]) -> State:
    """Converts the conditions of a TrainJob or JobSet, which name success Complete or Completed."""
    true = {item["type"]: item for item in status.get("conditions") or [] if item.get("status") == "True"}
    for name in DONE & set(true):
        return State(Phase.DONE, name)
    if "Failed" in true:
        return State(Phase.FAILED, f"Failed: {true['Failed'].get('message') or true['Failed'].get('reason')}")
    if "Suspended" in true:
        return State(Phase.WAITING, "Suspended")
    jobs = [*(status.get("jobsStatus") or []), *(status.get("replicatedJobsStatus") or [])]
    active = any(job.get("active") or job.get("ready") for job in jobs)
    return State(Phase.RUNNING, "Running") if active else State(Phase.WAITING, "Pending")


TARGET = Kubernetes()
