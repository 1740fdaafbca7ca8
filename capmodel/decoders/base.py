"""The decoder interface that training, validation and generation use.

Shapes: B images, N captions per image, T steps, V vocabulary, L grid cells, C encoder channels.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from captionbeam.capmodel.decoders.config import DecoderConfig
from captionbeam.capmodel.decoders.output import AdaptiveOutput, FullOutput, Output


class State(Protocol):
    """Decoding state of N captions per image."""

    def select(self, index: Tensor) -> Self:
        """Returns the state of captions ``index`` ``[B, N']``: new caption n' continues caption ``index[b, n']``."""


class Decoder(nn.Module):
    """Base class of decoders: reads image features and generates captions.

    Step-by-step decoding with ``begin`` and ``step`` gives the same logits as one ``forward`` call.
    """

    config: DecoderConfig
    embed: nn.Embedding
    output: Output
    out_bias: nn.Parameter | None

    def read(self, features: Tensor, tokens: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | float]:
        """Runs teacher forcing up to the output layer, at each True position of ``wanted`` ``[B, N, T]``.

        Returns the output layer's inputs ``[M, D]`` in row-major order, and the summed extra loss of the decoder's
        options.
        """
        raise NotImplementedError

    def logits(self, seen: Tensor) -> Tensor:
        """Applies the output layer: ``[..., D]`` -> ``[..., V]``."""
        return self.output(seen, self.embed.weight, self.out_bias)

    def _add_output(self) -> None:
        """Creates the output layer, which takes ``config.output_width`` channels, and the dropouts."""
        c = self.config
        adaptive = c.output_layer == "adaptive"  # has biases of its own
        self.out_bias = None if adaptive else nn.Parameter(torch.zeros(c.vocab_size))
        self.output = AdaptiveOutput(c) if adaptive else FullOutput(c)
        self.drop, self.drop_grid = nn.Dropout(c.dropout), nn.Dropout(c.grid_dropout)
        self.drop_words, self.drop_state = nn.Dropout(c.words_dropped), nn.Dropout(c.states_dropped)

    def _flat(self, features: Tensor) -> Tensor:
        """Returns features of any shape of ``forward`` as ``[B, L, C]``."""
        return features.reshape(len(features), self.config.cells, self.config.channels)

    def _projected(self, features: Tensor, project: nn.Linear, normalise: nn.LayerNorm) -> Tensor:
        """Returns the normalised projection of the grid, with dropout, ``[B, L, F]``."""
        flat = self._flat(features)
        kept = flat.dtype if torch.is_autocast_enabled(flat.device.type) else project.weight.dtype
        return self.drop_grid(normalise(project(flat.to(kept))))  # autocast converts the input itself

    def forward(self, features: Tensor, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Teacher forcing: returns the logits of the word after each of ``tokens`` ``[B, N, T]`` (int64, START first).

        ``features`` are ``[B, L, C]``, ``[B, H, W, C]`` or ``[B, C]`` of any float type. Without ``targets`` the logits
        are ``[B, N, T, V]``. With ``targets`` ``[B, N, T]`` they are ``[M, V]``, for the M targets that are not PAD, in
        row-major order (that of ``targets[targets != pad]``). PAD positions, half of all on Flickr8k, are skipped where
        that saves time.
        """
        wanted = torch.ones_like(tokens, dtype=torch.bool) if targets is None else targets != self.config.pad
        logits = self.logits(self.read(features, tokens, wanted)[0])
        return logits.view(*tokens.shape, -1) if targets is None else logits

    def begin(self, features: Tensor) -> Any:
        """Returns the state of one caption (N = 1) per image, before START. Features as in ``forward``."""
        raise NotImplementedError

    def step(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any, Tensor | None]:
        """Reads ``tokens`` ``[B, N]``; returns next-word logits ``[B, N, V]``, the state, and weights ``[B, N, L]``.

        The weights are float32, over the grid's cells; None unless ``config.attends``.
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
        """Returns the training loss, summed (not averaged) over the targets that are not PAD; float32.

        The loss is cross-entropy in nats, multiplied by the caption's weight in ``weights`` ``[B, N]``, plus the extra
        loss of the decoder's options. Shapes as in ``forward``.
        """
        wanted = targets != self.config.pad
        seen, more = self.read(features, tokens, wanted)
        words = self.embed.weight, self.out_bias
        if weights is not None:
            weights = weights.unsqueeze(-1).expand_as(wanted)[wanted]
        return self.output.loss(seen, *words, targets[wanted], label_smoothing, weights) + more


def selected(part: Tensor, index: Tensor) -> Tensor:
    """Selects captions of a state tensor: ``part`` ``[B, N, c]`` at ``index`` ``[B, N']`` -> ``[B, N', c]``."""
    return part.gather(1, index.unsqueeze(-1).expand(-1, -1, part.shape[-1]))
