"""The targets of a training run (``--on``), one file each; ``base.py`` defines their interface."""

from __future__ import annotations

import importlib

from captionbeam.jobs.submit.base import Target

NAMES = ("local", "vertex", "kubernetes", "slurm")


def find_target(name: str) -> Target:
    """Returns the target of that name; its client library is imported on use."""
    target: Target = importlib.import_module(f"captionbeam.jobs.submit.{name}").TARGET
    return target
