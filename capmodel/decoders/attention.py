"""Attention over the cells of a feature grid.

Shapes: B images, N captions per image, L grid cells, F feature channels, A attention channels, h heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionbeam.capmodel.decoders.config import DecoderConfig


class Attention(nn.Module):
    """Scores L cells, turns the scores into weights, and returns the weighted mean of the cells."""

    def __init__(self, feature_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(feature_dim, attention_dim, bias=False)

    def keys(self, grid: Tensor) -> Tensor:
        """Computes the features' part of the scores, once per image: ``[B, L, F]`` -> ``[B, L, A]``."""
        raise NotImplementedError

    def values(self, grid: Tensor) -> Tensor:
        """Computes the values that are averaged, once per image: ``[B, L, F]`` -> ``[B, L, F]``."""
        return grid

    def forward(self, keys: Tensor, values: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the context ``[B, N, F]`` and the weights ``[B, N, L]``.

        Inputs: ``keys [B, L, A]``, ``values [B, L, F]`` and ``query [B, N, A]``. The weights are float32 and sum to 1
        over L.
        """
        weights = self.weights(self.scores(keys, query))
        return torch.bmm(weights.to(values.dtype), values), weights

    def scores(self, keys: Tensor, query: Tensor) -> Tensor:
        """Returns scores ``[B, N, L]``, up to an additive constant."""
        raise NotImplementedError

    def weights(self, scores: Tensor) -> Tensor:
        """Normalises scores ``[B, N, L]`` to float32 weights that sum to 1."""
        return torch.softmax(scores, dim=-1, dtype=torch.float32)


class AdditiveAttention(Attention):
    """Additive attention: weights from ``v . tanh(W f + q)`` (Bahdanau et al. 2015).

    Softmax is invariant to constants, and ``tanh(x) = 2 sigmoid(2x) - 1``, so ``2 v . sigmoid(2x)`` gives the same
    weights. On CPUs a sigmoid takes a third of the time of a tanh. The factors of 2 are applied in ``keys`` (features),
    in ``scores`` (query) and to ``v``.
    """

    def __init__(self, feature_dim: int, attention_dim: int) -> None:
        super().__init__(feature_dim, attention_dim)
        self.score = nn.Linear(attention_dim, 1, bias=False)

    def keys(self, grid: Tensor) -> Tensor:
        return 2 * self.key(grid)

    def scores(self, keys: Tensor, query: Tensor) -> Tensor:
        match = torch.sigmoid_(keys.unsqueeze(1) + (2 * query).unsqueeze(2))
        return 2 * self.score(match).squeeze(-1)


class SparsemaxAttention(AdditiveAttention):
    """Additive attention with sparsemax: most weights are exactly 0."""

    def weights(self, scores: Tensor) -> Tensor:
        return sparsemax(scores.float())


class HardAttention(AdditiveAttention):
    """Hard attention: selects one cell, sampled in training and the most likely one otherwise.

    Xu et al. 2015 (section 4.1) train it with REINFORCE. Here it is a straight-through Gumbel-softmax: one-hot in the
    forward pass, with the gradient of the soft version (Jang et al. 2017, section 2.2).
    """

    def __init__(self, feature_dim: int, attention_dim: int, temperature: float) -> None:
        super().__init__(feature_dim, attention_dim)
        self.temperature = temperature

    def weights(self, scores: Tensor) -> Tensor:
        if self.training:
            return functional.gumbel_softmax(scores.float(), self.temperature, hard=True)
        likeliest = scores.argmax(-1, keepdim=True)
        return torch.zeros_like(scores, dtype=torch.float32).scatter_(-1, likeliest, 1.0)


class DotAttention(Attention):
    """Dot-product attention: scores ``q . W f / sqrt(A)`` (Luong et al. 2015, scaled as in Vaswani et al. 2017)."""

    def keys(self, grid: Tensor) -> Tensor:
        return self.key(grid) * self.key.out_features**-0.5

    def scores(self, keys: Tensor, query: Tensor) -> Tensor:
        return torch.bmm(query.to(keys.dtype), keys.transpose(1, 2))


class MultiHeadAttention(Attention):
    """Multi-head dot-product attention (Vaswani et al. 2017, section 3.2.2).

    The query projection and the output projection are the decoder's own linear layers.
    """

    def __init__(self, feature_dim: int, attention_dim: int, heads: int) -> None:
        super().__init__(feature_dim, attention_dim)
        self.value = nn.Linear(feature_dim, feature_dim, bias=False)
        self.heads, self.scale = heads, (attention_dim // heads) ** -0.5

    def keys(self, grid: Tensor) -> Tensor:
        return self.key(grid) * self.scale

    def values(self, grid: Tensor) -> Tensor:
        """Projects the values: ``[B, L, F]`` -> ``[B, L, F]``, F/h channels per head."""
        return self.value(grid)

    def forward(self, keys: Tensor, values: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the context ``[B, N, F]`` and the weights ``[B, N, L]`` averaged over heads."""
        asked, keys, values = (self._split(part) for part in (query.to(keys.dtype), keys, values))
        weights = torch.softmax(asked @ keys.transpose(2, 3), dim=-1, dtype=torch.float32)
        context = weights.to(values.dtype) @ values
        return context.transpose(1, 2).flatten(2), weights.mean(1)

    def _split(self, part: Tensor) -> Tensor:
        """Splits channels into heads: ``[B, n, c]`` -> ``[B, h, n, c/h]``."""
        return part.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def make_attention(config: DecoderConfig) -> Attention:
    """Returns the attention module that ``config`` names."""
    sizes = (config.feature_dim, config.attention_dim)
    match config.attention:
        case "additive":
            return AdditiveAttention(*sizes)
        case "dot":
            return DotAttention(*sizes)
        case "multi-head":
            return MultiHeadAttention(*sizes, config.heads)
        case "hard":
            return HardAttention(*sizes, config.hard_temperature)
    return SparsemaxAttention(*sizes)


def sparsemax(scores: Tensor) -> Tensor:
    """Projects ``scores`` ``[..., L]`` onto the simplex (sparsemax; Martins & Astudillo 2016, algorithm 1).

    Given the support, the result is linear in the scores, so autograd computes the gradient of their equation 14. The
    maximum is subtracted first: it does not change the result and keeps precision when scores are large.
    """
    scores = scores - scores.detach().amax(-1, keepdim=True)
    with torch.no_grad():
        falling = scores.sort(dim=-1, descending=True).values
        size = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
        held = (1 + size * falling > falling.cumsum(-1)).sum(-1, keepdim=True).clamp_(min=1)
        support = scores >= falling.gather(-1, held - 1)
    support = support.to(scores.dtype)
    threshold = ((scores * support).sum(-1, keepdim=True) - 1) / support.sum(-1, keepdim=True)
    return (scores - threshold).clamp(min=0)
