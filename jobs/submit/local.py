"""Runs torchrun on this machine, or on several that the user starts."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

from captionbeam.capmodel.training.config import TrainOptions, cores
from captionbeam.jobs.submit.nodes import Node
from captionbeam.jobs.submit.torchrun import run_workers, torchrun_command
from captionbeam.jobs.ui.training_view import TrainingView

WORKER = "captionbeam.capmodel.training.worker"


def describe(chosen: TrainOptions, workers: int, node: Node) -> str:
    """Returns the command that ``train`` would start."""
    return shlex.join(torchrun_command([WORKER, chosen.to_json()], workers, node))


def train_here(chosen: TrainOptions, workers: int, node: Node, view: TrainingView) -> None:
    """Trains in ``workers`` processes of this machine. Raises RequestError, SystemicError."""
    threads = chosen.threads or max(1, cores() // workers)
    own = "" if node.nodes == 1 else f"-{socket.gethostname() if node.rank is None else node.rank}"
    log = Path(chosen.logs) / f"workers{own}.log"
    run_workers([WORKER, chosen.to_json()], workers, threads, log, view.show, node)
