"""What the history of a training run tells: its best epoch, and which of its phases stopped early. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from captionbeam.capmodel.training.config import TrainOptions

CROSS_ENTROPY, SELF_CRITICAL = "cross-entropy", "self-critical"

History = Sequence[Mapping[str, Any]]


def best_of(history: History) -> Mapping[str, Any]:
    """The epoch with the highest CIDEr; among equals that of the lowest loss, then the first."""
    return max(history, key=lambda entry: (entry["CIDEr"], -entry["val_loss"]))


def early_stops(history: History, options: TrainOptions) -> list[dict[str, Any]]:
    """The phases that ``patience`` ended before their last epoch, of a run that is past them.

    ``phase``; ``after`` so many of its ``planned`` epochs; ``epoch``: the last of them, counted from the run's first;
    ``patience``; ``best``: the best epoch of the run until then, whose weights go on, and its ``CIDEr``.
    """
    planned = {CROSS_ENTROPY: options.epochs, SELF_CRITICAL: options.self_critical_epochs}
    found = []
    for phase, epochs in planned.items():
        own = [entry["epoch"] for entry in history if entry["phase"] == phase]
        if own and len(own) < epochs:
            best = best_of([entry for entry in history if entry["epoch"] <= own[-1]])
            counts = {"after": len(own), "planned": epochs, "epoch": own[-1], "patience": options.patience}
            found.append({"phase": phase, **counts, "best": best["epoch"], "CIDEr": best["CIDEr"]})
    return found
