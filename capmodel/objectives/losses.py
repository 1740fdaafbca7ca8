"""Losses and counts of a training step, as sums: the caller divides by the total of the whole batch.

Shapes: ``logits [..., V]`` and ``targets [...]`` int64, of the same leading shape, PAD where there is no target.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_cross_entropy(
    logits: Tensor, targets: Tensor, pad: int, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the negative log-likelihood (nats, float32) summed over non-PAD targets, and their number (int64).

    ``label_smoothing`` spreads that share of each target over the whole vocabulary (Szegedy et al. 2016).
    ``weights`` ``[...]`` multiply each target's loss; they do not change the number of targets.
    """
    flat = targets.reshape(-1)
    losses = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        flat,
        ignore_index=pad,
        reduction="sum" if weights is None else "none",
        label_smoothing=label_smoothing,
    )
    total = losses if weights is None else losses @ weights.reshape(-1)
    return total, (flat != pad).sum()


def next_word_hits(logits: Tensor, targets: Tensor, pad: int) -> Tensor:
    """Returns the number of non-PAD targets that are the most likely word (int64)."""
    with torch.no_grad():
        return ((logits.argmax(-1) == targets) & (targets != pad)).sum()
