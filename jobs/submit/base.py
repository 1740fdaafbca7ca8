"""What a target is: a platform that runs one command on some machines, each with some workers.

A target is asked in this order: ``check`` (its own options, before any data are read), ``on_workers`` (is a place
reachable from there, and by which name), ``request`` (what would be sent, as text), ``live`` (is a job of this
run there already), ``submit``, ``state``.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.jobs.submit.nodes import AUTO
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files


class Phase(Enum):
    """How far a job is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class State(NamedTuple):
    """A job's phase, and the platform's own words for it."""

    phase: Phase
    said: str


class Job(NamedTuple):
    """A job as the platform knows it: its id, and where a person can look at it (a URL or a command)."""

    id: str
    look: str


@dataclass(frozen=True)
class Order:
    """One run to be submitted.

    options: as the launcher sees them; flags: the command line's. nodes: machines; workers: on each of them.
    command: what each machine runs, its places as the workers name them. name: the same for the same output.
    """

    options: TrainOptions
    flags: argparse.Namespace
    nodes: int
    workers: int
    command: tuple[str, ...]
    name: str


class Target(ABC):
    """A platform. ``name`` is ``--on``'s, ``title`` is for sentences."""

    name: str
    title: str
    logs_are_seen = False  # whether the launcher sees the same local folders as the workers
    secrets: str  # where storage options that may be secret can be instead, for sentences
    gathering: tuple[str, ...] = (
        "--rendezvous",
        AUTO,
    )  # how machines find each other, as options of ``train``

    @abstractmethod
    def check(self, flags: argparse.Namespace) -> None:
        """Whether the target's own options are there and make sense. Raises RequestError."""

    @abstractmethod
    def on_workers(self, place: str, flags: argparse.Namespace) -> str:
        """The launcher's ``place`` as workers name it. Raises RequestError where they cannot reach it."""

    def logs_on_workers(self, place: str | None, name: str, flags: argparse.Namespace) -> str | None:
        """Likewise for ``--logs``, if it was given; None where the workers may choose. Raises RequestError."""
        return None if place is None else self.on_workers(place, flags)

    @abstractmethod
    def request(self, order: Order) -> str:
        """What would be sent, whole, as text."""

    @abstractmethod
    def live(self, order: Order) -> Job | None:
        """A job of this run that is waiting or running, or None. Raises RequestError, SystemicError."""

    @abstractmethod
    def submit(self, order: Order) -> Job:
        """Send it. Raises RequestError where the platform refuses it, SystemicError where it fails."""

    @abstractmethod
    def state(self, job: Job, order: Order) -> State:
        """How the job is doing. Raises SystemicError."""


def run_name(output: str) -> str:
    """``captionbeam-`` and a hash of the place where the bundle goes."""
    return f"captionbeam-{hashlib.sha256(output.encode()).hexdigest()[:10]}"


def run_client(words: Sequence[str], sent: str | None = None) -> subprocess.CompletedProcess[str]:
    """A platform's own client, to its end. Raises RequestError where it is not installed."""
    try:
        return subprocess.run(words, input=sent, capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        raise RequestError(
            f"{words[0]} is not on this machine's PATH; expected the platform's client"
        ) from err


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing said")


def remote_place(place: str, title: str, instead: str) -> str:
    """``place``, which has to be a URL. Raises RequestError."""
    if "://" not in place or files.protocol(place) in ("file", "memory"):
        raise RequestError(f"{place!r} is out of reach of {title}'s workers; expected {instead}")
    return place
