"""What training minimises and counts. Sums, never means: the caller divides by the whole batch.

Shapes: ``logits [..., V]`` and ``targets [...]``, int64, of the same leading shape, PAD where none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_cross_entropy(
    logits: Tensor, targets: Tensor, pad: int, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The negative log-likelihood (nats, float32) summed over targets that are not PAD; their number (int64).

    ``label_smoothing`` spreads that share of each target over the whole vocabulary (Szegedy et al. 2016).
    """
    flat = targets.reshape(-1)
    total = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        flat,
        ignore_index=pad,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total, (flat != pad).sum()


def next_word_hits(logits: Tensor, targets: Tensor, pad: int) -> Tensor:
    """How many of the targets that are not PAD are the likeliest word (int64)."""
    with torch.no_grad():
        return ((logits.argmax(-1) == targets) & (targets != pad)).sum()
