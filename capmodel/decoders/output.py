"""Output layers: logits of the next word, and their loss. Embeddings ``[V, E]`` and biases ``[V]`` are the decoder's.

Shapes: V vocabulary, D input channels, E embedding, M words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionbeam.capmodel.decoders.config import ADAPTIVE_SHARE, DecoderConfig
from captionbeam.capmodel.objectives.losses import masked_cross_entropy


class FullOutput(nn.Module):
    """Logits of all words: ``W reduce(x) + b``.

    W is the embeddings if they are tied (Press & Wolf 2017), else a weight of its own. ``reduce`` is the identity, or
    for two stages a linear layer to a few channels with ELU, which makes W ``[V, bottleneck]``.
    """

    weight: nn.Parameter | None

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.output_width
        self.pad = config.pad
        stage = config.output_bottleneck
        self.reduce = nn.Sequential(nn.Linear(width, stage), nn.ELU()) if stage else nn.Identity()
        inner = stage or width
        own = None if config.ties else nn.Parameter(torch.randn(config.vocab_size, inner) * inner**-0.5)
        self.register_parameter("weight", own)

    def forward(self, seen: Tensor, embeddings: Tensor, bias: Tensor | None) -> Tensor:
        """Returns logits: ``[..., D]`` -> ``[..., V]``."""
        weight = embeddings if self.weight is None else self.weight
        return functional.linear(self.reduce(seen), weight, bias)

    def loss(
        self,
        seen: Tensor,
        embeddings: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        label_smoothing: float = 0.0,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Returns the cross-entropy in nats, float32, summed over M words: ``seen`` ``[M, D]``, ``targets`` ``[M]``.

        ``weights`` ``[M]`` multiply each word's loss.
        """
        logits = self(seen, embeddings, bias)
        return masked_cross_entropy(logits, targets, self.pad, label_smoothing, weights)[0]


class AdaptiveOutput(nn.Module):
    """Adaptive softmax (Grave et al. 2017): rare words are in clusters with fewer channels, computed on demand.

    Token ids must be sorted by falling frequency. Computes in float32 for any input dtype.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        sizes = config.output_width, config.vocab_size, list(config.cutoffs)
        self.words = nn.AdaptiveLogSoftmaxWithLoss(*sizes, div_value=ADAPTIVE_SHARE, head_bias=True)

    def forward(self, seen: Tensor, embeddings: Tensor, bias: Tensor | None) -> Tensor:
        """Returns log-probabilities, which are valid logits: ``[..., D]`` -> ``[..., V]``."""
        with torch.autocast(seen.device.type, enabled=False):
            return self.words.log_prob(seen.float().flatten(0, -2)).unflatten(0, seen.shape[:-1])

    def loss(
        self,
        seen: Tensor,
        embeddings: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        label_smoothing: float = 0.0,
        weights: Tensor | None = None,
    ) -> Tensor:
        """As in ``FullOutput``, without label smoothing; computes only the clusters of the targets."""
        with torch.autocast(seen.device.type, enabled=False):
            likelihoods = self.words(seen.float(), targets).output
        idle = sum(value.sum() for value in self.words.tail.parameters())
        total = likelihoods.sum() if weights is None else likelihoods @ weights
        return 0.0 * idle - total  # gives every weight a gradient, which DDP requires


Output = FullOutput | AdaptiveOutput
