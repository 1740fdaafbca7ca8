"""Additive attention over the cells of a feature grid.

Shapes: B images, N captions an image, L grid cells, F feature channels, A attention channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Weights over L cells from ``v . tanh(W f + q)`` (Bahdanau et al. 2015), and the cells' weighted mean.

    A softmax ignores constants, and ``tanh(x) = 2 sigmoid(2x) - 1``; so ``2 v . sigmoid(2x)`` gives the same
    weights, and on CPUs a sigmoid takes a third of the time of a tanh. The factors of 2 are in ``keys`` (for
    the features), in ``forward`` (for the query) and beside ``v``.
    """

    def __init__(self, feature_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(feature_dim, attention_dim, bias=False)
        self.score = nn.Linear(attention_dim, 1, bias=False)

    def keys(self, values: Tensor) -> Tensor:
        """``[B, L, F]`` -> ``[B, L, A]``: the features' half of the scores, once an image."""
        return 2 * self.key(values)

    def forward(self, keys: Tensor, values: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Context ``[B, N, F]`` and weights ``[B, N, L]``.

        From ``keys [B, L, A]``, ``values [B, L, F]`` and ``query [B, N, A]``. The weights are float32
        and sum to 1 over L.
        """
        match = torch.sigmoid_(keys.unsqueeze(1) + (2 * query).unsqueeze(2))
        weights = torch.softmax(2 * self.score(match).squeeze(-1), dim=-1, dtype=torch.float32)
        return torch.bmm(weights.to(values.dtype), values), weights
