"""The output layer: from what a decoder has seen to the next word.

Shapes: V vocabulary, D channels that come in, E embedding, M words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionbeam.capmodel.decoders.config import ADAPTIVE_SHARE, DecoderConfig
from captionbeam.capmodel.objectives.losses import masked_cross_entropy


class Output(nn.Module):
    """The output layer. The embeddings ``[V, E]`` and the words' biases ``[V]`` are the decoder's."""

    def forward(self, seen: Tensor, embeddings: Tensor, bias: Tensor | None) -> Tensor:
        """``[..., D]`` -> logits ``[..., V]``."""
        raise NotImplementedError

    def loss(
        self,
        seen: Tensor,
        embeddings: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        label_smoothing: float = 0.0,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy in nats, float32, summed over M words: ``seen`` ``[M, D]``, ``targets`` ``[M]``.

        Each word's counts ``weights`` ``[M]`` times.
        """
        raise NotImplementedError


class FullOutput(Output):
    """Logits of all words: ``W reduce(x) + b``.

    W is the embeddings where they are tied (Press & Wolf 2017), else its own. ``reduce`` is nothing, or the
    first of two stages: a linear layer to a few channels and an ELU, which leaves V rows of those few.
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
        logits = self(seen, embeddings, bias)
        return masked_cross_entropy(logits, targets, self.pad, label_smoothing, weights)[0]


class AdaptiveOutput(Output):
    """Adaptive softmax (Grave et al. 2017): rare words in clusters of fewer channels, computed where needed.

    The ids have to fall in frequency. Computes in float32 whatever comes in.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        sizes = config.output_width, config.vocab_size, list(config.cutoffs)
        self.words = nn.AdaptiveLogSoftmaxWithLoss(*sizes, div_value=ADAPTIVE_SHARE, head_bias=True)

    def forward(self, seen: Tensor, embeddings: Tensor, bias: Tensor | None) -> Tensor:
        """``[..., D]`` -> log-probabilities ``[..., V]``, which are logits too."""
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
        """Likewise; only the clusters of the targets are computed. No label smoothing."""
        with torch.autocast(seen.device.type, enabled=False):
            likelihoods = self.words(seen.float(), targets).output
        idle = sum(value.sum() for value in self.words.tail.parameters())
        total = likelihoods.sum() if weights is None else likelihoods @ weights
        return 0.0 * idle - total  # every weight gets a gradient: DDP waits for all of them


def make_output(config: DecoderConfig) -> Output:
    """The output layer that ``config`` names."""
    return AdaptiveOutput(config) if config.output_layer == "adaptive" else FullOutput(config)


def make_bias(config: DecoderConfig) -> nn.Parameter | None:
    """The words' biases ``[V]``; adaptive softmax has its own."""
    return None if config.output_layer == "adaptive" else nn.Parameter(torch.zeros(config.vocab_size))
