"""Kubernetes manifests of a training job: a TrainJob (Kubeflow Trainer 2) and a JobSet (v1alpha2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from captionbeam.capmodel.runtime.platform import JOB
from captionbeam.jobs.submit.nodes import PORT
from captionbeam.jobs.submit.target_options import TargetOptions, pairs
from captionbeam.jobs.submit.training_target import Order
from captionbeam.schemas.errors import RequestError

NODE = "node"  # name of the job and of its container, as in Kubeflow's torch-distributed runtime
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
LABELS = {"app.kubernetes.io/name": "captionbeam", "app.kubernetes.io/component": "train"}
WRONG_REQUEST = 2  # captionbeam's exit status for errors that a retry cannot fix


def trainjob(order: Order) -> dict[str, Any]:
    """Returns a TrainJob: the runtime defines what is common in the cluster, the job the rest."""
    flags = order.flags
    spec: dict[str, Any] = {
        "runtimeRef": {"name": flags.runtime},
        "trainer": {
            "image": flags.image,
            "command": literal(order.command),
            "numNodes": order.nodes,
            "numProcPerNode": order.workers,
            "env": _variables(order),
            "resourcesPerNode": _resources(flags),
        },
    }
    spec.update(_patched(_pod(flags), flags.trainer_version))
    if flags.max_hours:
        spec["activeDeadlineSeconds"] = max(1, round(flags.max_hours * 3600))
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(order),
        "spec": spec,
    }


def jobset(order: Order) -> dict[str, Any]:
    """Returns a JobSet: one indexed job with a pod per node; if one fails, all restart."""
    fatal = {"name": "wrongRequest", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(order),
        "spec": {
            "failurePolicy": {"maxRestarts": order.flags.restarts, "rules": [fatal]},
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "replicatedJobs": [{"name": NODE, "replicas": 1, "template": {"spec": _job(order)}}],
        },
    }


def literal(words: Sequence[str]) -> list[str]:
    """Escapes a command for Kubernetes, which expands ``$(NAME)`` and reads ``$$`` as ``$``."""
    return [word.replace("$", "$$") for word in words]


def _job(order: Order) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "parallelism": order.nodes,
        "completions": order.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": NODE, "operator": "In", "values": [WRONG_REQUEST]},
                },
                # an evicted pod is replaced without using up a restart
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"spec": _whole_pod(order)},
    }
    if order.flags.max_hours:
        spec["activeDeadlineSeconds"] = max(1, round(order.flags.max_hours * 3600))
    return spec


def _whole_pod(order: Order) -> dict[str, Any]:
    pod = _pod(order.flags)
    mounts = pod.pop("containers", [{}])[0].get("volumeMounts", [])
    container = {
        "name": NODE,
        "image": order.flags.image,
        "command": literal(order.command),
        "env": [*_variables(order), *_gathering(order)],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "resources": _resources(order.flags),
        "volumeMounts": mounts,
    }
    return {"restartPolicy": "Never", **pod, "containers": [container]}


def _gathering(order: Order) -> list[dict[str, Any]]:
    """Returns the variables that Kubeflow Trainer would set: first machine, number of machines, own rank."""
    values = {
        "PET_MASTER_ADDR": f"{order.name}-{NODE}-0-0.{order.name}",
        "PET_MASTER_PORT": str(PORT),
        "PET_NNODES": str(order.nodes),
    }
    rank = {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}}
    return [*({"name": name, "value": value} for name, value in values.items()), rank]


def _metadata(order: Order) -> dict[str, Any]:
    where = {"namespace": order.flags.namespace} if order.flags.namespace else {}
    return {"name": order.name, **where, "labels": {**LABELS, **pairs(order.flags.label)}}


def _variables(order: Order) -> list[dict[str, Any]]:
    flags = order.flags
    plain = {JOB: f"Kubernetes/{flags.kind} {order.name}", **pairs(flags.env)}
    secret = [secret_variable(given) for given in flags.env_secret]
    return [*({"name": name, "value": value} for name, value in plain.items()), *secret]


def _resources(flags: TargetOptions) -> dict[str, Any]:
    own = {name: str(value) for name, value in (("cpu", flags.cpus), ("memory", flags.memory)) if value}
    gpus = {"nvidia.com/gpu": str(flags.gpus)} if flags.gpus else {}
    return {"requests": {**own, **gpus}, "limits": {**own, **gpus}} if own or gpus else {}


def _pod(flags: TargetOptions) -> dict[str, Any]:
    """Returns a pod's fields besides its container's, as both kinds use them."""
    volumes, mounts = _volumes(flags)
    pod = {
        "serviceAccountName": flags.service_account,
        "nodeSelector": pairs(flags.node_selector),
        "tolerations": [toleration(text) for text in flags.toleration],
        "volumes": volumes,
        "containers": [{"name": NODE, "volumeMounts": mounts}] if mounts else [],
    }
    return {name: value for name, value in pod.items() if value}


def _volumes(flags: TargetOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes, mounts = [], []
    size = flags.shared_memory
    if size != "0":  # the runtime's 64 MiB are too small for several workers
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    for number, text in enumerate(flags.volume):
        mount = parse_mount(text)
        volumes.append({"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": mount.claim}})
        mounts.append({"name": f"volume-{number}", "mountPath": mount.path})
    return volumes, mounts


def _patched(pod: dict[str, Any], version: str) -> dict[str, Any]:
    """Returns the fields that patch the runtime's pods with ``pod``, for that version of Kubeflow Trainer."""
    if not pod:
        return {}
    if version == "2.0":
        return {"podSpecOverrides": [{"targetJobs": [{"name": NODE}], **pod}]}
    if version == "2.1":
        return {"podTemplateOverrides": [{"targetJobs": [{"name": NODE}], "spec": pod}]}
    job = {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
    runtime = {"template": {"spec": {"replicatedJobs": [job]}}}
    return {"runtimePatches": [{"manager": "captionbeam/train", "trainingRuntimeSpec": runtime}]}


def toleration(text: str) -> dict[str, str]:
    """Parses ``KEY``, ``KEY:EFFECT`` or ``KEY=VALUE:EFFECT``. Raises RequestError."""
    key, _, effect = text.partition(":")
    name, equals, value = key.partition("=")
    if not name:
        raise RequestError(f"--toleration is {text!r}; expected KEY, KEY:EFFECT or KEY=VALUE:EFFECT")
    how = {"operator": "Equal", "value": value} if equals else {"operator": "Exists"}
    return {"key": name, **how, **({"effect": effect} if effect else {})}


def secret_variable(given: str) -> dict[str, Any]:
    """Returns the variable of ``NAME=SECRET:KEY``. Raises RequestError."""
    name, _, source = given.partition("=")
    secret, _, key = source.partition(":")
    if not name or not secret or not key:
        raise RequestError(f"--env-secret is {given!r}; expected NAME=SECRET:KEY")
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


@dataclass(frozen=True)
class Mount:
    """A volume claim, mounted at ``path`` in each worker; its files are below ``here`` on the launcher."""

    claim: str
    path: str
    here: str

    def on_workers(self, place: str) -> str | None:
        """Returns the launcher's ``place`` as workers name it, or None if it is not on this volume.

        >>> Mount("photos", "/data", "/mnt/nfs").on_workers("/mnt/nfs/features")
        '/data/features'
        """
        if place != self.here and not place.startswith(f"{self.here.rstrip('/')}/"):
            return None
        return self.path.rstrip("/") + place[len(self.here.rstrip("/")) :]


def parse_mount(text: str) -> Mount:
    """Parses ``CLAIM:PATH[:HERE]``. Raises RequestError."""
    claim, *paths = text.split(":")
    if not claim or len(paths) not in (1, 2) or not all(path.startswith("/") for path in paths):
        raise RequestError(
            f"--volume is {text!r}; expected CLAIM:PATH or CLAIM:PATH:HERE, the paths absolute"
        )
    return Mount(claim, paths[0], paths[-1])
