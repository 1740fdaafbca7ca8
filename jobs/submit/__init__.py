"""The targets of a training run (``--on``), one file each; ``training_target.py`` defines their interface."""

from __future__ import annotations

import importlib

from captionbeam.jobs.submit.training_target import TrainingTarget


def find_target(name: str) -> TrainingTarget:
    """Returns the target of that name; its client library is imported on use."""
    target: TrainingTarget = importlib.import_module(f"captionbeam.jobs.submit.{name}").TARGET
    return target
