"""An API server that knows TrainJobs and JobSets, and runs them: each pod becomes a process of this machine.

Objects are held against the published definitions. Pods get what Kubeflow Trainer's torch plugin and JobSet give
them; claims are folders; the cluster's names all lead to 127.0.0.1. kubectl finds it through ``KUBECONFIG``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.builders.clouds.kubeflow import definitions, misfits
from tests.builders.clouds.kubelet import filled
from tests.builders.clouds.machines import Machines
from tests.builders.clouds.rest import JsonHandler, serving
from tests.builders.web.servers import free_port

NAMESPACE = "photos"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
BACKOFF = 6  # of a Job whose runtime says nothing else


class Kind(NamedTuple):
    """A kind of object, as the API names it."""

    group: str
    version: str
    plural: str
    name: str

    @property
    def path(self) -> str:
        """Of its group and version."""
        return f"/apis/{self.group}/{self.version}"


KINDS = (
    Kind("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob"),
    Kind("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet"),
)


class FakeCluster:
    """``claims``: the folder behind each volume claim; ``secrets``: (name, key) -> value; ``created``: what came."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.claims: dict[str, str] = {}
        self.secrets: dict[tuple[str, str], str] = {}
        self.created: list[dict[str, Any]] = []
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.machines: dict[str, Machines] = {}
        self.suspended = False
        self._evicted: set[str] = set()
        self._ending = threading.Event()

    def create(self, kind: Kind, value: dict[str, Any]) -> dict[str, Any]:
        """Raises ValueError with what the definition does not know, FileExistsError."""
        wrong = misfits(value)
        if wrong:
            raise ValueError("; ".join(wrong))
        key = (kind.plural, value["metadata"]["name"])
        if key in self.objects:
            raise FileExistsError(key[1])
        self.created.append(json.loads(json.dumps(value)))
        self.objects[key] = {**value, "status": {}}
        threading.Thread(target=self._work, args=(self.objects[key],), daemon=True).start()
        return self.objects[key]

    def evict(self, name: str, pod: int) -> None:
        """A node is drained: one pod of the job has to go."""
        self._evicted.add(name)
        self.machines[name].lose(pod)

    def close(self) -> None:
        """End whatever is still at work."""
        self._ending.set()
        for machines in self.machines.values():
            machines.end()

    def _work(self, value: dict[str, Any]) -> None:
        if self.suspended:
            value["status"] = {"conditions": [{"type": "Suspended", "status": "True", "reason": "Queued"}]}
            return
        pods = Pods.of_trainjob(value) if value["kind"] == "TrainJob" else Pods.of_jobset(value)
        name = value["metadata"]["name"]
        job = "jobsStatus" if value["kind"] == "TrainJob" else "replicatedJobsStatus"
        mounts = {path: self.claims[claim] for path, claim in pods.mounts.items()}
        machines = self.machines[name] = Machines(self.folder / name, mounts)
        value["status"] = {job: [{"name": "node", "active": len(pods.commands)}]}
        for left in reversed(range(pods.tries)):
            status = self._once(machines, pods)
            if status in (0, pods.fatal) or self._ending.is_set() or not left:
                break
        good = {"type": pods.done, "reason": "AllJobsCompleted", "message": "jobs completed"}
        bad = {"type": "Failed", "reason": "FailedJobs", "message": f"a pod ended with {status}"}
        value["status"] = {"conditions": [{"status": "True", **(bad if status else good)}]}

    def _once(self, machines: Machines, pods: Pods) -> int:
        """One try of all pods: their first failure, and the others are ended; 0 once all are done."""
        port = str(free_port())
        variables = [self._variables(pods, n, port) for n in range(len(pods.commands))]
        each = zip(pods.commands, variables, strict=True)
        machines.start([([filled(word, given) for word in command], given) for command, given in each])
        while not self._ending.is_set():
            ends = machines.poll()
            failed = [status for status in ends if status]
            if failed or all(status == 0 for status in ends):
                machines.end()
                return failed[0] if failed else 0
            time.sleep(0.05)
        return 1

    def _variables(self, pods: Pods, number: int, port: str) -> dict[str, str]:
        found = {}
        for item in pods.env:
            source = item.get("valueFrom", {})
            if "fieldRef" in source:
                assert source["fieldRef"]["fieldPath"] == INDEX
                found[item["name"]] = str(number)
            elif "secretKeyRef" in source:
                wanted = source["secretKeyRef"]
                found[item["name"]] = self.secrets[wanted["name"], wanted["key"]]
            else:
                found[item["name"]] = item["value"]
        assert found["PET_MASTER_ADDR"] == f"{pods.name}-node-0-0.{pods.name}"
        return {**found, "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}


class Pods(NamedTuple):
    """The pods of a job: what each runs, their variables, where claims are mounted, how often they are tried."""

    name: str
    commands: list[list[str]]
    env: list[dict[str, Any]]
    mounts: dict[str, str]
    tries: int
    fatal: int | None
    done: str

    @classmethod
    def of_jobset(cls, value: Mapping[str, Any]) -> Pods:
        """As JobSet and Job make them."""
        (job,) = value["spec"]["replicatedJobs"]
        spec, policy = job["template"]["spec"], value["spec"]["failurePolicy"]
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        rules = policy["rules"]
        stops = [rule["action"] for rule in rules if rule["onJobFailureReasons"] == ["PodFailurePolicy"]]
        (given_up,) = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
        fatal = given_up if stops == ["FailJobSet"] else None
        return cls(
            value["metadata"]["name"], [container["command"]] * spec["completions"], container["env"],
            _mounts(pod["volumes"], container["volumeMounts"]), policy["maxRestarts"] + 1, fatal, "Completed",
        )  # fmt: skip

    @classmethod
    def of_trainjob(cls, value: Mapping[str, Any]) -> Pods:
        """As Kubeflow Trainer 2.0 makes them of the runtime torch-distributed."""
        spec, name = value["spec"], value["metadata"]["name"]
        assert spec["runtimeRef"] == {"name": "torch-distributed"}
        trainer, overrides = spec["trainer"], spec["podSpecOverrides"][0]
        assert overrides["targetJobs"] == [{"name": "node"}]
        plugin = {"PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                  "PET_MASTER_ADDR": f"{name}-node-0-0.{name}", "PET_MASTER_PORT": "29500"}  # fmt: skip
        rank = {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}}
        env = [*trainer["env"], *({"name": key, "value": item} for key, item in plugin.items()), rank]
        mounts = _mounts(overrides["volumes"], overrides["containers"][0]["volumeMounts"])
        commands = [trainer["command"]] * trainer["numNodes"]
        return cls(name, commands, env, mounts, BACKOFF + 1, None, "Complete")


def _mounts(volumes: list[dict[str, Any]], mounts: list[dict[str, Any]]) -> dict[str, str]:
    claimed = [volume for volume in volumes if "persistentVolumeClaim" in volume]
    claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in claimed}
    return {mount["mountPath"]: claims[mount["name"]] for mount in mounts if mount["name"] in claims}


def _discovery() -> dict[str, Any]:
    """What kubectl asks before it sends anything: groups, resources, and whether fields are checked."""
    groups, paths, found = [], {}, {}
    for kind in KINDS:
        version = {"groupVersion": f"{kind.group}/{kind.version}", "version": kind.version}
        groups.append({"name": kind.group, "versions": [version], "preferredVersion": version})
        verbs = ["create", "delete", "get", "list", "patch", "watch"]
        resource = {
            "name": kind.plural,
            "singularName": kind.name.lower(),
            "namespaced": True,
            "kind": kind.name,
        }
        found[kind.path] = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version["groupVersion"],
                            "resources": [{**resource, "verbs": verbs}]}  # fmt: skip
        paths[kind.path[1:]] = {"serverRelativeURL": f"/openapi/v3{kind.path}"}
        gvk = {"group": kind.group, "version": kind.version, "kind": kind.name}
        check = {"name": "fieldValidation", "in": "query", "schema": {"type": "string", "uniqueItems": True}}
        patch = {"x-kubernetes-group-version-kind": gvk, "parameters": [check], "responses": {}}
        place = f"{kind.path}/namespaces/{{namespace}}/{kind.plural}/{{name}}"
        found[f"/openapi/v3{kind.path}"] = {"openapi": "3.0.0", "info": {"title": "fake", "version": "1"},
                                            "paths": {place: {"patch": patch}}}  # fmt: skip
    return {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
        f"/api/v1/namespaces/{NAMESPACE}": {
            "kind": "Namespace",
            "apiVersion": "v1",
            "metadata": {"name": NAMESPACE},
        },
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        "/openapi/v3": {"paths": paths},
        **found,
    }


def _handler(cluster: FakeCluster) -> type[JsonHandler]:
    known = _discovery()

    class Handler(JsonHandler, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in known:
                self.answer(200, known[path])
                return
            self._object(lambda key: cluster.objects[key])

        def do_DELETE(self) -> None:
            self.body()
            self._object(lambda key: cluster.objects.pop(key))

        def do_POST(self) -> None:
            value = json.loads(self.body())
            kind = next(kind for kind in KINDS if self.path.startswith(kind.path))
            assert self.path.startswith(f"{kind.path}/namespaces/{NAMESPACE}/{kind.plural}?"), self.path
            assert "fieldValidation=Strict" in self.path
            try:
                self.answer(201, cluster.create(kind, value))
            except ValueError as err:
                self._refuse(422, "Invalid", f"{kind.name}.{kind.group} is invalid: {err}")
            except FileExistsError as err:
                self._refuse(409, "AlreadyExists", f'{kind.plural}.{kind.group} "{err}" already exists')

        def _object(self, found: Any) -> None:
            *_, namespace, plural, name = self.path.partition("?")[0].split("/")
            try:
                assert namespace == NAMESPACE
                self.answer(200, found((plural, name)))
            except (KeyError, AssertionError):
                self._refuse(404, "NotFound", f'{plural} "{name}" not found')

        def _refuse(self, code: int, reason: str, message: str) -> None:
            facts = {"status": "Failure", "reason": reason, "code": code, "message": message}
            self.answer(code, {"kind": "Status", "apiVersion": "v1", **facts})

    return Handler


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """The cluster, and a ``KUBECONFIG`` whose context has the namespace ``photos``."""
    definitions()
    cluster = FakeCluster(tmp_path / "kubernetes")
    with serving(_handler(cluster)) as address:
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": address}}], "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
        }  # fmt: skip
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "kubecache"))
        yield cluster
        cluster.close()
