"""What training, validation and generation know of a decoder.

Shapes: B images, N captions an image, T steps, V vocabulary, L grid cells, C channels of the encoder.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from captionbeam.capmodel.decoders.config import DecoderConfig
from captionbeam.capmodel.decoders.output import Output, make_bias, make_output


class State(Protocol):
    """Where N captions of each image stand."""

    def select(self, index: Tensor) -> Self:
        """``index`` ``[B, N']``: which of the N captions each of the N' new ones goes on from."""


class Decoder(nn.Module):
    """A model that reads an image's features and writes its captions.

    Reading a caption word by word with ``begin`` and ``step`` gives the logits that ``forward`` gives at once.
    """

    config: DecoderConfig
    embed: nn.Embedding
    output: Output
    out_bias: nn.Parameter | None
    drop_grid: nn.Dropout

    def read(self, features: Tensor, tokens: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | float]:
        """Teacher forcing up to the output layer: what it sees at each True place of ``wanted`` ``[B, N, T]``.

        ``[M, D]`` in row-major order; and what the decoder's own options add to the loss, summed.
        """
        raise NotImplementedError

    def logits(self, seen: Tensor) -> Tensor:
        """The output layer: ``[..., D]`` -> ``[..., V]``."""
        return self.output(seen, self.embed.weight, self.out_bias)

    def _add_output(self) -> None:
        """Make the output layer, which sees ``config.output_width`` channels."""
        self.out_bias = make_bias(self.config)
        self.output = make_output(self.config)

    def forward(self, features: Tensor, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Teacher forcing: logits of the word after each of ``tokens`` ``[B, N, T]`` (int64, START first).

        ``features`` are ``[B, L, C]``, ``[B, H, W, C]`` or ``[B, C]`` of any float type. Without ``targets``
        the logits are ``[B, N, T, V]``. With ``targets`` ``[B, N, T]`` they are ``[M, V]``, for the M targets
        that are not PAD in row-major order (that of ``targets[targets != pad]``), and nothing is computed for
        the others where that saves time: on Flickr8k half of it.
        """
        wanted = torch.ones_like(tokens, dtype=torch.bool) if targets is None else targets != self.config.pad
        logits = self.logits(self.read(features, tokens, wanted)[0])
        return logits.view(*tokens.shape, -1) if targets is None else logits

    def begin(self, features: Tensor) -> Any:
        """The State of one caption (N = 1) of each image, before START. Features as in ``forward``."""
        raise NotImplementedError

    def step(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any, Tensor | None]:
        """Read ``tokens`` ``[B, N]``: logits ``[B, N, V]`` of the next, the state, weights ``[B, N, L]``.

        The weights (float32) are those over the grid's cells; None where not ``config.attends``.
        """
        raise NotImplementedError

    def loss(
        self,
        features: Tensor,
        tokens: Tensor,
        targets: Tensor,
        label_smoothing: float = 0.0,
        weights: Tensor | None = None,
    ) -> Tensor:
        """What training minimises, summed (never averaged) over the targets that are not PAD; float32.

        Cross-entropy in nats, that of a caption times its one of ``weights`` ``[B, N]``; and what the decoder's own
        options add to it. Shapes as in ``forward``.
        """
        wanted = targets != self.config.pad
        seen, more = self.read(features, tokens, wanted)
        words = self.embed.weight, self.out_bias
        if weights is not None:
            weights = weights.unsqueeze(-1).expand_as(wanted)[wanted]
        return self.output.loss(seen, *words, targets[wanted], label_smoothing, weights) + more


def selected(part: Tensor, index: Tensor) -> Tensor:
    """``part`` ``[B, N, c]`` of a state at ``index`` ``[B, N']``: ``[B, N', c]``."""
    return part.gather(1, index.unsqueeze(-1).expand(-1, -1, part.shape[-1]))
