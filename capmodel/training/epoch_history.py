"""Evaluates a run's history: its best epoch and early stops. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from captionbeam.capmodel.training.config import TrainOptions

CROSS_ENTROPY, SELF_CRITICAL = "cross-entropy", "self-critical"

History = Sequence[Mapping[str, Any]]


def best_epoch(history: History) -> Mapping[str, Any]:
    """Returns the epoch with the highest CIDEr; ties go to the lowest loss, then to the first."""
    return max(history, key=lambda entry: (entry.get("CIDEr", 0.0), -entry.get("val_loss", 0.0)))


def epochs_since_best(history: History) -> int:
    """Returns the number of epochs after ``best_epoch``, 0 for an empty history. ``patience`` limits it."""
    return history[-1]["epoch"] - best_epoch(history)["epoch"] if history else 0


def early_stops(history: History, options: TrainOptions) -> list[dict[str, Any]]:
    """Returns the phases that ``patience`` ended early, of a run that is past them.

    Each has ``phase``; ``after``, its number of epochs; ``planned``; ``epoch``, the last one, counted from the run's
    first; ``patience``; ``best``, the run's best epoch so far, whose weights continue, and its ``CIDEr``.
    """
    planned = {CROSS_ENTROPY: options.epochs, SELF_CRITICAL: options.self_critical_epochs}
    found = []
    for phase, epochs in planned.items():
        own = [entry["epoch"] for entry in history if entry["phase"] == phase]
        if own and len(own) < epochs:
            best = best_epoch([entry for entry in history if entry["epoch"] <= own[-1]])
            counts = {"after": len(own), "planned": epochs, "epoch": own[-1], "patience": options.patience}
            found.append({"phase": phase, **counts, "best": best["epoch"], "CIDEr": best["CIDEr"]})
    return found
