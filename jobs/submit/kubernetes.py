"""Kubernetes: a TrainJob of Kubeflow Trainer, or a plain JobSet, through kubectl."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Mapping
from typing import Any

import yaml

from captionbeam.capmodel.runtime.platform import JOB
from captionbeam.jobs.options.shared import require
from captionbeam.jobs.submit import kubernetes_names as names
from captionbeam.jobs.submit import manifests
from captionbeam.jobs.submit.base import Job, Order, Phase, State, Target, last_line, remote_place, run_client
from captionbeam.jobs.submit.mounts import Mount, parse_mount
from captionbeam.schemas.errors import RequestError, SystemicError

RESOURCES = {"trainjob": "trainjobs.trainer.kubeflow.org", "jobset": "jobsets.jobset.x-k8s.io"}
DONE = {"Complete", "Completed"}
REFUSED = re.compile(
    r"invalid|forbidden|not found|unknown field|denied|no matches for kind|already exists|doesn't have"
)


class Kubernetes(Target):
    """Locations are in buckets, or on volumes that the launcher can access too."""

    name, title = "kubernetes", "Kubernetes"
    secrets = "the workers' environment (--env-secret FSSPEC_S3_SECRET=NAME:KEY), or in a file on a --volume"

    def check(self, flags: argparse.Namespace) -> None:
        require(bool(flags.image), "--on kubernetes needs --image, the container that the workers run")
        require(
            flags.dry_run or shutil.which("kubectl") is not None,
            "kubectl is not on this machine's PATH; expected Kubernetes' client (or --dry-run)",
        )
        self._check_kind(flags)
        for mount in flags.volume:
            parse_mount(mount)
        for taint in flags.toleration:
            manifests.toleration(taint)
        for name, source in flags.env_secret:
            manifests.secret_variable(name, source)
        _check_names(flags)
        _check_reserved(flags)

    def _check_kind(self, flags: argparse.Namespace) -> None:
        idle = {"restarts": flags.restarts is not None} if kind_of(flags) == "trainjob" else {
            "trainer-version": flags.trainer_version, "runtime": flags.runtime}  # fmt: skip
        given = [f"--{name}" for name, there in idle.items() if there]
        why = "its runtime says how often" if kind_of(flags) == "trainjob" else "it has no runtime"
        require(not given, f"{' and '.join(given)} would do nothing with --kind {kind_of(flags)}: {why}")
        require(
            not (flags.max_hours and flags.trainer_version in ("2.0", "2.1")),
            f"--max-hours needs Kubeflow Trainer 2.2; --trainer-version is {flags.trainer_version}",
        )

    def on_workers(self, place: str, flags: argparse.Namespace) -> str:
        mounts = [parse_mount(text) for text in flags.volume]
        for mount in mounts:
            if (found := mount.on_workers(place)) is not None:
                return found
        if "://" in place:
            return remote_place(place, self.title, "a bucket's URL")
        raise RequestError(
            f"{place!r} is on no volume of the workers; expected {_expected(mounts)} or a bucket's URL"
        )

    def request(self, order: Order) -> str:
        return str(yaml.safe_dump(self._manifest(order), sort_keys=False, width=100))

    def _manifest(self, order: Order) -> dict[str, Any]:
        return manifests.trainjob(order) if kind_of(order.flags) == "trainjob" else manifests.jobset(order)

    def live(self, order: Order) -> Job | None:
        state = self._look(order)
        return self._job(order) if state and state.phase in (Phase.WAITING, Phase.RUNNING) else None

    def submit(self, order: Order) -> Job:
        resource = RESOURCES[kind_of(order.flags)]
        _kubectl(order.flags, "delete", resource, order.name, "--ignore-not-found")  # a finished earlier job
        done = run_client(_words(order.flags, "create", "-f", "-"), self.request(order))
        if done.returncode:
            kind = RequestError if REFUSED.search(done.stderr.lower()) else SystemicError
            raise kind(f"kubectl create refuses the job: {' '.join(done.stderr.split())}")
        return self._job(order)

    def state(self, job: Job, order: Order) -> State:
        state = self._look(order)
        return state or State(Phase.FAILED, "deleted")

    def _look(self, order: Order) -> State | None:
        resource = RESOURCES[kind_of(order.flags)]
        text = _kubectl(order.flags, "get", resource, order.name, "--ignore-not-found", "-o", "json")
        return _as_state(json.loads(text).get("status") or {}) if text.strip() else None

    def _job(self, order: Order) -> Job:
        pods = f"--selector=jobset.sigs.k8s.io/jobset-name={order.name}"
        where = _words(order.flags, "logs", "--prefix", "--tail=-1", pods)
        return Job(f"{kind_of(order.flags)} {order.name}", " ".join(where))


def kind_of(flags: argparse.Namespace) -> str:
    """Returns ``trainjob`` or ``jobset``."""
    return flags.kind or "trainjob"


def _check_names(flags: argparse.Namespace) -> None:
    names.check_namespace("--namespace", flags.namespace)
    names.check_name("--service-account", flags.service_account)
    names.check_name("--runtime", flags.runtime)
    names.check_quantity("--memory", flags.memory)
    names.check_quantity("--shared-memory", flags.shared_memory)
    for option in ("label", "node_selector"):
        for name, value in getattr(flags, option):
            names.check_label(f"--{option.replace('_', '-')}", name, value)
    for mount in flags.volume:
        names.check_name("--volume's claim", parse_mount(mount).claim)
    for name, _ in flags.env:
        names.check_variable("--env", name)
    for name, source in flags.env_secret:
        names.check_variable("--env-secret", name)
        names.check_name("--env-secret's secret", source.partition(":")[0])


def _check_reserved(flags: argparse.Namespace) -> None:
    ours = [name for name, _ in flags.label if name in manifests.LABELS]
    require(not ours, f"--label {' '.join(ours)} is set by captionbeam; expected other names")
    reserved = [name for name, _ in [*flags.env, *flags.env_secret] if name.startswith("PET_") or name == JOB]
    require(not reserved, f"--env {' '.join(reserved)} is set by the platform; expected other names")


def _expected(mounts: list[Mount]) -> str:
    below = " or ".join(mount.here for mount in mounts)
    return f"a place below {below}" if mounts else "--volume CLAIM:PATH with the place below PATH"


def _words(flags: argparse.Namespace, *words: str) -> list[str]:
    chosen = {"context": flags.context, "namespace": flags.namespace}
    return ["kubectl", *(f"--{name}={value}" for name, value in chosen.items() if value), *words]


def _kubectl(flags: argparse.Namespace, *words: str) -> str:
    done = run_client(_words(flags, *words))
    if done.returncode:
        said = last_line(done.stderr)
        kind = RequestError if REFUSED.search(said.lower()) else SystemicError
        raise kind(f"kubectl {words[0]} does not answer: {said}")
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
