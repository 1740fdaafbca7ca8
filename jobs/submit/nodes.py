"""The machines of one training run: their number, rendezvous and this machine's rank.

Platforms set them in the environment: Kubeflow Trainer (``PET_*``), Vertex AI (``CLUSTER_SPEC``), and platforms with
PyTorch's older variables (``MASTER_ADDR``, ``WORLD_SIZE``, ``RANK``). Slurm sets a task's machine (``SLURM_NODEID``);
the job's script finds the first machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from captionbeam.jobs.options.shared import require
from captionbeam.schemas.errors import RequestError

AUTO, PORT = "auto", 29500
# Machines of one job start minutes apart (pulling images, waiting for spot capacity).
JOIN_SECONDS, READ_SECONDS = 3600, 900


@dataclass(frozen=True)
class Node:
    """This machine among ``nodes``, which meet at ``endpoint``, ``HOST:PORT`` of the first one.

    rank:    its index; None if unknown, then torchrun determines the first machine.
    address: this machine's name for the others; None: its host name.
    run:     an id shared by the machines of this run only.
    echo:    whether the platform keeps standard error.
    """

    nodes: int = 1
    endpoint: str = ""
    rank: int | None = None
    address: str | None = None
    run: str = ""
    echo: bool = False

    def rendezvous(self) -> list[str]:
        """Returns torchrun's rendezvous options."""
        settings = {"join_timeout": JOIN_SECONDS, "read_timeout": READ_SECONDS}
        if self.rank is not None:
            settings["is_host"] = int(self.rank == 0)
        config = ",".join(f"{name}={value}" for name, value in settings.items())
        local = [f"--local-addr={self.address}"] if self.address else []
        return [f"--nnodes={self.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={self.endpoint}",
                f"--rdzv-id={self.run}", f"--rdzv-conf={config}", *local]  # fmt: skip


ALONE = Node()


def find_node(
    nodes: int | None, rendezvous: str | None, run: str, environment: Mapping[str, str] = os.environ
) -> Node:
    """Returns this machine, from ``--nodes``, ``--rendezvous`` and the environment. Raises RequestError."""
    if rendezvous is None:
        require(nodes in (None, 1), f"--nodes {nodes} needs --rendezvous HOST:PORT, the same on each of them")
        return ALONE
    if rendezvous == AUTO:
        found = replace(_found(environment), run=run, echo=True)
        require(
            nodes in (None, found.nodes),
            f"--nodes is {nodes}, but the platform's environment tells of {found.nodes}",
        )
        return found
    require(
        nodes is not None,
        f"--rendezvous {rendezvous} needs --nodes N, the number of machines that meet there",
    )
    host, _, port = rendezvous.rpartition(":")
    require(
        host != "" and port.isascii() and port.isdigit(),
        f"--rendezvous is {rendezvous!r}; expected HOST:PORT of the first machine, or {AUTO}",
    )
    slurm = "SLURM_JOB_ID" in environment
    rank = int(environment["SLURM_NODEID"]) if slurm and "SLURM_NODEID" in environment else None
    return Node(nodes or 1, rendezvous, rank, run=run, echo=slurm)


def _found(environment: Mapping[str, str]) -> Node:
    if "PET_MASTER_ADDR" in environment:
        return _from_names(environment, "PET_MASTER_ADDR", "PET_MASTER_PORT", "PET_NNODES", "PET_NODE_RANK")
    if environment.get("CLUSTER_SPEC"):
        return _from_vertex(environment["CLUSTER_SPEC"])
    if "MASTER_ADDR" in environment:
        return _from_names(environment, "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
    raise RequestError(
        f"--rendezvous {AUTO} finds none of PET_MASTER_ADDR, CLUSTER_SPEC and MASTER_ADDR in the environment; "
        "expected to run where a platform sets one of them"
    )


def _from_names(environment: Mapping[str, str], host: str, port: str, nodes: str, rank: str) -> Node:
    try:
        endpoint = f"{environment[host]}:{environment.get(port, PORT)}"
        return Node(int(environment[nodes]), endpoint, int(environment[rank]))
    except (KeyError, ValueError) as err:
        raise RequestError(
            f"{host} is set, but {err}; expected {nodes} and {rank} beside it, numbers"
        ) from err


def _from_vertex(text: str) -> Node:
    """Parses CLUSTER_SPEC: pools of the first machine (``workerpool0``) and the others, as ordered ``HOST:PORT``."""
    try:
        spec: Any = json.loads(text)
        pools = sorted(spec["cluster"].items())
        machines = [(pool, index) for pool, names in pools for index, _ in enumerate(names)]
        own = (spec["task"]["type"], int(spec["task"]["index"]))
        address = spec["cluster"][own[0]][own[1]].rpartition(":")[0]
        return Node(len(machines), pools[0][1][0], machines.index(own), address)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as err:
        raise RequestError(
            f"CLUSTER_SPEC is {text!r} ({err}); expected Vertex AI's description of a job"
        ) from err
