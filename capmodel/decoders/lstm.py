"""The plain LSTM decoder: reads the image as one vector, once, then generates the words.

With the image as the first input it is Show and Tell (Vinyals et al. 2015); with the image as the initial state it
is the "init-inject" variant of Tanti et al. 2018.

Shapes: B images, N captions per image, T steps, L grid cells, C encoder channels, E embedding, H hidden.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captionbeam.capmodel.decoders.base import Decoder, selected
from captionbeam.capmodel.decoders.config import DecoderConfig


class LstmState(NamedTuple):
    """Decoding state of N captions per image."""

    hidden: Tensor  # [B, N, H]
    cell: Tensor  # [B, N, H]

    def select(self, index: Tensor) -> LstmState:
        """Returns the state of captions ``index`` ``[B, N']``: new caption n' continues caption ``index[b, n']``."""
        return LstmState(selected(self.hidden, index), selected(self.cell, index))


class LstmDecoder(Decoder):
    """LSTM decoder that reads the image's features (a grid's mean) once, through linear layers."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.image = _image_layers(c)
        self.embed = nn.Embedding(c.vocab_size, c.embed_dim)
        self.lstm = nn.LSTM(c.embed_dim, c.hidden_dim, batch_first=True)
        self.out_hidden = nn.Linear(c.hidden_dim, c.embed_dim) if c.projects_state else None
        self._add_output()
        self._initialise()

    def read(self, features: Tensor, tokens: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | float]:
        """Implements ``Decoder.read``. Padding is computed too: on CPUs packing costs as much as it saves."""
        start = self.begin(features)
        captions = (part.expand(-1, tokens.shape[1], -1) for part in start)
        hidden, _ = self._run(LstmState(*captions), self.drop_words(self.embed(tokens)))
        return self._seen(hidden[wanted]), 0.0

    def begin(self, features: Tensor) -> LstmState:
        """Returns the state of one caption (N = 1) per image, before START. Features as in ``forward``."""
        image = self.image(self.drop_grid(self._flat(features).mean(1, dtype=torch.float32))).unsqueeze(1)
        zeros = image.new_zeros(len(features), 1, self.config.hidden_dim)
        match self.config.image_as:
            case "start-state":
                return LstmState(image, image)
            case "start-cell":
                return LstmState(zeros, image)
        return self._run(LstmState(zeros, zeros), image.unsqueeze(2))[1]

    def step(self, state: LstmState, tokens: Tensor) -> tuple[Tensor, LstmState, None]:
        """Reads ``tokens`` ``[B, N]``; returns next-word logits ``[B, N, V]``, the state, and None for the weights."""
        hidden, state = self._run(state, self.drop_words(self.embed(tokens)).unsqueeze(2))
        return self.logits(self._seen(hidden.squeeze(2))), state, None

    def _run(self, state: LstmState, inputs: Tensor) -> tuple[Tensor, LstmState]:
        """Runs the LSTM on inputs ``[B, N, T, E]``; returns hidden states ``[B, N, T, H]`` and the final state."""
        captions = inputs.shape[:2]
        inputs = inputs.to(self.embed.weight.dtype)
        start = tuple(part.flatten(0, 1).unsqueeze(0).to(inputs.dtype) for part in state)
        with torch.autocast("cuda", enabled=False):  # there, autocast means float16 for LSTMs
            hidden, ends = self.lstm(inputs.flatten(0, 1), start)
        return hidden.unflatten(0, captions), LstmState(*(end[0].unflatten(0, captions) for end in ends))

    def _seen(self, hidden: Tensor) -> Tensor:
        """Returns the output layer's input: the state, projected to an embedding if the weights are tied."""
        hidden = self.drop_state(hidden)
        return hidden if self.out_hidden is None else self.drop(self.out_hidden(hidden))

    def _initialise(self) -> None:
        """Initialises embeddings to unit expected norm (they may be the output weights) and forget-gate biases to 1."""
        nn.init.normal_(self.embed.weight, std=self.config.embed_dim**-0.5)
        with torch.no_grad():
            self.lstm.get_parameter("bias_ih_l0")[self.config.hidden_dim : 2 * self.config.hidden_dim] += 1


def _image_layers(config: DecoderConfig) -> nn.Sequential:
    """Layers from C channels, through the optional bottleneck, to an LSTM input or state."""
    width = config.embed_dim if config.image_as == "first-input" else config.hidden_dim
    between = [config.image_bottleneck] if config.image_bottleneck else []
    sizes = [config.channels, *between, width]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers.append(nn.Linear(before, after))
        if config.image_activation == "elu":
            layers.append(nn.ELU())
    return nn.Sequential(*layers)
