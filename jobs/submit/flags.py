"""Options of ``train`` for where it runs; each belongs to some targets and has no effect with others."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from captionbeam.jobs.options.shared import natural, positive, seconds
from captionbeam.jobs.submit import NAMES

REMOTE = ("vertex", "kubernetes", "slurm")
TITLES = {
    NAMES: "where it trains",
    REMOTE: "submitted jobs (--on vertex, kubernetes, slurm)",
    ("vertex", "kubernetes"): "--on vertex and kubernetes",
    ("kubernetes", "slurm"): "--on kubernetes and slurm",
    ("local",): "--on local",
    ("vertex",): "--on vertex",
    ("kubernetes",): "--on kubernetes",
    ("slurm",): "--on slurm",
}


@dataclass(frozen=True)
class Flag:
    """One option: its targets, name and argparse settings. Unset, it is None, [] or False."""

    on: tuple[str, ...]
    name: str
    help: str
    more: dict[str, Any] = field(default_factory=dict)


def pair(text: str) -> tuple[str, str]:
    """Parses ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _many(metavar: str, kind: Any = pair) -> dict[str, Any]:
    return {"action": "append", "default": [], "type": kind, "metavar": metavar}


def _text(metavar: str) -> dict[str, Any]:
    return {"metavar": metavar}


SWITCH = {"action": "store_true"}
VERTEX, KUBERNETES, SLURM = ("vertex",), ("kubernetes",), ("slurm",)
IMAGES, CLUSTERS = ("vertex", "kubernetes"), ("kubernetes", "slurm")

FLAGS = (
    Flag(NAMES, "--dry-run", "print what would be started or submitted, touch nothing", SWITCH),
    Flag(NAMES, "--nodes", "machines, each with --workers processes (default 1)", {"type": positive, "metavar": "N"}),
    Flag(("local",), "--rendezvous", "where --nodes meet: HOST:PORT of the first, or auto: as the platform says",
         _text("HOST:PORT")),
    Flag(REMOTE, "--gpus", "of each machine; --workers is as many then", {"type": positive, "metavar": "N"}),
    Flag(REMOTE, "--max-hours", "the job's time limit", {"type": seconds, "metavar": "HOURS"}),
    Flag(REMOTE, "--no-wait", "leave once the job is submitted; the same command then waits for it", SWITCH),
    Flag(REMOTE, "--poll", "seconds between looks at the job (default 15)", {"type": seconds, "metavar": "SECONDS"}),
    Flag(IMAGES, "--image", "the container: captionbeam, the same Python, torch", _text("IMAGE")),
    Flag(IMAGES, "--service-account", "whom the workers act as", _text("NAME")),
    Flag(IMAGES, "--label", "of the job; repeatable", _many("NAME=VALUE")),
    Flag(IMAGES, "--env", "of the workers; repeatable", _many("NAME=VALUE")),
    Flag(CLUSTERS, "--cpus", "of each machine", {"type": positive, "metavar": "N"}),
    Flag(CLUSTERS, "--memory", "of each machine, as the platform writes it: 64Gi, 64G", _text("SIZE")),
    Flag(CLUSTERS, "--restarts", "how often a job that failed is started again (default 3)",
         {"type": natural, "metavar": "N"}),
    Flag(VERTEX, "--project", "Google Cloud project (default: that of the credentials)", _text("ID")),
    Flag(VERTEX, "--region", "such as us-central1", _text("NAME")),
    Flag(VERTEX, "--machine-type", "such as g2-standard-12", _text("TYPE")),
    Flag(VERTEX, "--accelerator", "such as NVIDIA_L4; --gpus of them (default 1)", _text("TYPE")),
    Flag(VERTEX, "--boot-disk-gb", "of each machine (default 100)", {"type": positive, "metavar": "N"}),
    Flag(VERTEX, "--spot", "cheaper machines that may be taken away; the run goes on on others", SWITCH),
    Flag(VERTEX, "--network", "to peer with: projects/NUMBER/global/networks/NAME", _text("NAME")),
    Flag(VERTEX, "--staging-bucket", "gs:// for what else belongs to the job: TensorBoard's folder",
         _text("URL")),
    Flag(VERTEX, "--vertex-endpoint", "address of the API, where it is a private one", _text("URL")),
    Flag(KUBERNETES, "--kind", "trainjob (Kubeflow Trainer; the default) or jobset",
         {"choices": ("trainjob", "jobset")}),
    Flag(KUBERNETES, "--trainer-version", "of Kubeflow Trainer in the cluster (default 2.2, which later ones read too)",
         {"choices": ("2.0", "2.1", "2.2")}),
    Flag(KUBERNETES, "--runtime", "the ClusterTrainingRuntime (default torch-distributed)", _text("NAME")),
    Flag(KUBERNETES, "--namespace", "(default: that of the context)", _text("NAME")),
    Flag(KUBERNETES, "--context", "of the kubeconfig (default: the current one)", _text("NAME")),
    Flag(KUBERNETES, "--volume", "a claim, where workers see it, and where this machine sees it (default: the same); "
         "repeatable", _many("CLAIM:PATH[:HERE]", str)),
    Flag(KUBERNETES, "--shared-memory", "size of /dev/shm (default 8Gi; 0: leave it alone)", _text("SIZE")),
    Flag(KUBERNETES, "--node-selector", "label of the machines; repeatable", _many("NAME=VALUE")),
    Flag(KUBERNETES, "--toleration", "taint of the machines: KEY, KEY:EFFECT or KEY=VALUE:EFFECT; repeatable",
         _many("TAINT", str)),
    Flag(KUBERNETES, "--env-secret", "a variable from a secret: NAME=SECRET:KEY; repeatable", _many("NAME=SECRET:KEY")),
    Flag(SLURM, "--partition", "", _text("NAME")),
    Flag(SLURM, "--account", "", _text("NAME")),
    Flag(SLURM, "--qos", "", _text("NAME")),
    Flag(SLURM, "--constraint", "features of the machines", _text("LIST")),
    Flag(SLURM, "--sbatch", "any other option of sbatch: --sbatch=--exclusive; repeatable", _many("OPTION", str)),
    Flag(SLURM, "--activate", "script to source first (default: of the environment that this command runs in)",
         _text("FILE")),
    Flag(SLURM, "--container", "an Apptainer image with captionbeam, in place of an environment", _text("IMAGE")),
    Flag(SLURM, "--stop-seconds", "before the time limit, to write a checkpoint in and be queued again (default 120)",
         {"type": positive, "metavar": "N"}),
)  # fmt: skip


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--on`` and all targets' options, one group per set of targets.

    ``storage_file`` becomes the name of the file with ``--storage-options``, if there is one.
    """
    parser.set_defaults(storage_file=None)
    groups = {on: parser.add_argument_group(title) for on, title in TITLES.items()}
    groups[NAMES].add_argument(
        "--on", choices=NAMES, default="local", metavar="TARGET",
        help="local (torchrun on this machine; the default), vertex, kubernetes or slurm",
    )  # fmt: skip
    for flag in FLAGS:
        groups[flag.on].add_argument(flag.name, help=flag.help or None, **flag.more)
