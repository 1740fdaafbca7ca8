"""Where a training run takes place (``--on``), one file a target; ``base.py`` says what a target is."""

from __future__ import annotations

import importlib

from captionbeam.jobs.submit.base import Target

NAMES = ("local", "vertex", "kubernetes", "slurm")


def find_target(name: str) -> Target:
    """The target of that name; its client library is loaded when it is used."""
    target: Target = importlib.import_module(f"captionbeam.jobs.submit.{name}").TARGET
    return target
