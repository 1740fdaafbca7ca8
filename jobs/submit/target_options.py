"""Options of ``train`` for where it runs. An option has no effect with other targets than its group names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from captionbeam.schemas.options import NATURAL, POSITIVE, SECONDS, URL, number, one_of, option, text

NAMES = ("local", "vertex", "kubernetes", "slurm")
POLL_SECONDS = 15.0
RESTARTS = 3
PAIR = text("NAME=VALUE", "NAME=VALUE", lambda value: value.partition("=")[0] != "" and "=" in value)
ID, SIZE, IMAGE = text("ID"), text("SIZE"), text("IMAGE")


def pairs(given: Sequence[str]) -> dict[str, str]:
    """Returns ``NAME=VALUE`` texts by name."""
    return {name: value for name, _, value in (each.partition("=") for each in given)}


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Where training runs."""

    GROUP = "where it trains"

    on: str = option(
        "local",
        "local (torchrun on this machine), vertex, kubernetes or slurm",
        one_of(*NAMES, unit="TARGET"),
        common=True,
    )
    dry_run: bool = option(False, "print what would be started or submitted, and change nothing", common=True)
    nodes: int | None = option(
        None, "machines, each with --workers processes (default 1)", POSITIVE, common=True
    )
    rendezvous: str | None = option(
        None,
        "of --on local: where --nodes meet: HOST:PORT of the first, or auto: from the platform's environment",
        text("HOST:PORT"),
    )
    workers: int | None = option(
        None, "processes on each machine (default: its --gpus, else 1)", POSITIVE, common=True
    )


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Submitted jobs."""

    GROUP = "submitted jobs (--on vertex, kubernetes, slurm)"

    gpus: int | None = option(None, "GPUs of each machine, each with one worker", POSITIVE, common=True)
    max_hours: float | None = option(
        None, "the job's time limit", number(0, above=True, unit="HOURS"), common=True
    )
    no_wait: bool = option(False, "return once the job is submitted; the same command then waits for it")
    poll: float = option(POLL_SECONDS, "seconds between two requests for the job's state", SECONDS)


@dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """Containers of Vertex AI and Kubernetes."""

    GROUP = "--on vertex and kubernetes"

    image: str | None = option(
        None, "container image with captionbeam, the same Python and torch", IMAGE, common=True
    )
    service_account: str | None = option(None, "service account of the workers")
    label: tuple[str, ...] = option((), "label of the job; repeatable", PAIR, repeated=True)
    env: tuple[str, ...] = option((), "environment variable of the workers; repeatable", PAIR, repeated=True)


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Machines of Kubernetes and Slurm."""

    GROUP = "--on kubernetes and slurm"

    cpus: int | None = option(None, "CPUs of each machine", POSITIVE)
    memory: str | None = option(None, "memory of each machine, in the platform's syntax: 64Gi, 64G", SIZE)
    restarts: int = option(
        RESTARTS, "restarts of a job that failed (a trainjob's are those of its runtime)", NATURAL
    )


@dataclass(frozen=True, kw_only=True)
class VertexOptions:
    """Vertex AI."""

    GROUP = "--on vertex"

    project: str | None = option(None, "Google Cloud project (default: that of the credentials)", ID)
    region: str | None = option(None, "such as us-central1")
    machine_type: str | None = option(None, "such as g2-standard-12", text("TYPE"))
    accelerator: str | None = option(None, "such as NVIDIA_L4; --gpus of them (default 1)", text("TYPE"))
    boot_disk_gb: int = option(100, "boot disk of each machine, in GB", POSITIVE)
    spot: bool = option(False, "cheaper machines that can be reclaimed; the run resumes on others")
    network: str | None = option(None, "to peer with: projects/NUMBER/global/networks/NAME")
    staging_bucket: str | None = option(None, "gs:// folder for the job's other files, such as its logs", URL)
    vertex_endpoint: str | None = option(None, "address of a private endpoint of the API", URL)


@dataclass(frozen=True, kw_only=True)
class KubernetesOptions:
    """Kubernetes."""

    GROUP = "--on kubernetes"

    kind: str = option(
        "trainjob", "trainjob (Kubeflow Trainer) or jobset", one_of("trainjob", "jobset", unit="KIND")
    )
    trainer_version: str = option(
        "2.2",
        "version of Kubeflow Trainer in the cluster: 2.0, 2.1 or 2.2 (and later)",
        one_of("2.0", "2.1", "2.2", unit="VERSION"),
    )
    runtime: str = option("torch-distributed", "ClusterTrainingRuntime of a trainjob")
    namespace: str | None = option(None, "namespace (default: that of the context)")
    context: str | None = option(None, "context of the kubeconfig (default: the current one)")
    volume: tuple[str, ...] = option(
        (),
        "a claim, its path on workers, and the path of its files on this machine (default: the same); repeatable",
        text("CLAIM:PATH[:HERE]"),
        repeated=True,
    )
    shared_memory: str = option("8Gi", "size of /dev/shm (0: the runtime's)", SIZE)
    node_selector: tuple[str, ...] = option((), "label of the machines; repeatable", PAIR, repeated=True)
    toleration: tuple[str, ...] = option(
        (),
        "taint of the machines: KEY, KEY:EFFECT or KEY=VALUE:EFFECT; repeatable",
        text("TAINT"),
        repeated=True,
    )
    env_secret: tuple[str, ...] = option(
        (), "a variable from a secret; repeatable", text("NAME=SECRET:KEY"), repeated=True
    )


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Slurm."""

    GROUP = "--on slurm"

    partition: str | None = option(None, "partition")
    account: str | None = option(None, "account")
    qos: str | None = option(None, "quality of service")
    constraint: str | None = option(None, "features of the machines", text("LIST"))
    sbatch: tuple[str, ...] = option(
        (), "any other option of sbatch, as --sbatch=--exclusive; repeatable", text("OPTION"), repeated=True
    )
    activate: str | None = option(
        None, "script to source first (default: that of this command's environment)", text("FILE")
    )
    container: str | None = option(
        None, "an Apptainer image with captionbeam, instead of an environment", IMAGE
    )
    stop_seconds: int = option(
        120, "time before the limit to write a checkpoint and to be queued again", number(1, whole=True)
    )


@dataclass(frozen=True, kw_only=True)
class TargetOptions(
    MachineOptions,
    JobOptions,
    ContainerOptions,
    ClusterOptions,
    VertexOptions,
    KubernetesOptions,
    SlurmOptions,
):
    """The options of all targets."""
