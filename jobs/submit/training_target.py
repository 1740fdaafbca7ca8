"""The interface of targets: platforms that run one command on some machines, each with some workers.

A target is called in this order: ``check`` (its own options, before any data is read), ``on_workers`` (is a location
reachable from workers, and by which name), ``request`` (what would be sent, as text), ``find_active`` (the active job
of this run, if any), ``submit``, ``state``.
"""

from __future__ import annotations

import hashlib
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.jobs.submit.nodes import AUTO
from captionbeam.jobs.submit.target_options import TargetOptions
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files


class Phase(Enum):
    """The phase of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class State(NamedTuple):
    """A job's phase, and the platform's own description."""

    phase: Phase
    message: str


class Job(NamedTuple):
    """A job on the platform: its id, and a URL or command to look at it."""

    id: str
    view: str


@dataclass(frozen=True)
class Order:
    """One run to submit.

    options: from the launcher's view; flags: those of the command line. nodes: machines; workers: per machine. command:
    run on each machine, with locations as the workers name them. name: depends only on the output.
    """

    options: TrainOptions
    flags: TargetOptions
    nodes: int
    workers: int
    command: tuple[str, ...]
    name: str


class TrainingTarget(ABC):
    """A platform. ``name`` is the value of ``--on``, ``title`` is for messages."""

    name: str
    title: str
    logs_are_seen = False  # whether launcher and workers see the same local folders
    secrets: str  # alternative for storage options that may be secret, for messages
    gathering: tuple[str, ...] = ("--rendezvous", AUTO)  # options of ``train``: how machines find each other

    @abstractmethod
    def check(self, flags: TargetOptions) -> None:
        """Validates the target's own options. Raises RequestError."""

    @abstractmethod
    def on_workers(self, place: str, flags: TargetOptions) -> str:
        """Returns the launcher's ``place`` as workers name it. Raises RequestError if they cannot reach it."""

    def logs_on_workers(self, place: str | None, name: str, flags: TargetOptions) -> str | None:
        """Returns ``--logs`` as workers name it; None if the workers may choose. Raises RequestError."""
        return None if place is None else self.on_workers(place, flags)

    @abstractmethod
    def request(self, order: Order) -> str:
        """Returns what would be sent, complete, as text."""

    @abstractmethod
    def find_active(self, order: Order) -> Job | None:
        """Returns the waiting or running job of this run, or None. Raises RequestError, SystemicError."""

    @abstractmethod
    def submit(self, order: Order) -> Job:
        """Submits the run. Raises RequestError if the platform rejects it, SystemicError if it fails."""

    @abstractmethod
    def state(self, job: Job, order: Order) -> State:
        """Returns the job's state. Raises SystemicError."""


def run_name(output: str) -> str:
    """Returns ``captionbeam-`` plus a hash of the bundle's location."""
    return f"captionbeam-{hashlib.sha256(output.encode()).hexdigest()[:10]}"


def run_client(words: Sequence[str], sent: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a platform's client and waits for its end. Raises RequestError if it is not installed."""
    try:
        return subprocess.run(words, input=sent, capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        raise RequestError(
            f"{words[0]} is not on this machine's PATH; expected the platform's client"
        ) from err


def last_line(text: str) -> str:
    """Returns the last non-empty line."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing said")


def remote_place(place: str, title: str, instead: str) -> str:
    """Returns ``place``, which must be a remote URL. Raises RequestError."""
    if "://" not in place or files.protocol(place) in ("file", "memory"):
        raise RequestError(f"{place!r} is out of reach of {title}'s workers; expected {instead}")
    return place
