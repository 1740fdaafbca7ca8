"""The plain LSTM decoder: the image, as one vector, is told once; then the words follow.

As the first input it is Show and Tell (Vinyals et al. 2015); as the start of the state it is the "init-inject"
of Tanti et al. 2018.

Shapes: B images, N captions an image, T steps, L grid cells, C channels of the encoder, E embedding, H hidden.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captionbeam.capmodel.decoders.base import Decoder, selected
from captionbeam.capmodel.decoders.config import DecoderConfig


class LstmState(NamedTuple):
    """Where N captions of each image stand."""

    hidden: Tensor  # [B, N, H]
    cell: Tensor  # [B, N, H]

    def select(self, index: Tensor) -> LstmState:
        """``index`` ``[B, N']``: which of the N captions each of the N' new ones goes on from."""
        return LstmState(selected(self.hidden, index), selected(self.cell, index))


class LstmDecoder(Decoder):
    """Reads the image's features (a grid's mean) through linear layers, then word after word."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.image = _image_layers(c)
        self.embed = nn.Embedding(c.vocab_size, c.embed_dim)
        self.lstm = nn.LSTM(c.embed_dim, c.hidden_dim, batch_first=True)
        self.out_hidden = nn.Linear(c.hidden_dim, c.embed_dim) if c.projects_state else None
        self._add_output()
        self.drop = nn.Dropout(c.dropout)
        self.drop_words = nn.Dropout(c.words_dropped)
        self.drop_state = nn.Dropout(c.states_dropped)
        self.drop_grid = nn.Dropout(c.grid_dropout)
        self._initialise()

    def read(self, features: Tensor, tokens: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | float]:
        """As ``Decoder.read`` says. Padding runs along: on CPUs packing costs what it saves."""
        start = self.begin(features)
        captions = (part.expand(-1, tokens.shape[1], -1) for part in start)
        hidden, _ = self._run(LstmState(*captions), self.drop_words(self.embed(tokens)))
        return self._seen(hidden[wanted]), 0.0

    def begin(self, features: Tensor) -> LstmState:
        """One caption (N = 1) of each image, before its first word. Features as in ``forward``."""
        flat = features.reshape(len(features), self.config.cells, self.config.channels)
        image = self.image(self.drop_grid(flat.mean(1, dtype=torch.float32))).unsqueeze(1)
        zeros = image.new_zeros(len(features), 1, self.config.hidden_dim)
        match self.config.image_as:
            case "start-state":
                return LstmState(image, image)
            case "start-cell":
                return LstmState(zeros, image)
        return self._run(LstmState(zeros, zeros), image.unsqueeze(2))[1]

    def step(self, state: LstmState, tokens: Tensor) -> tuple[Tensor, LstmState, None]:
        """Read ``tokens`` ``[B, N]``: logits ``[B, N, V]`` of the next, the state; no weights."""
        hidden, state = self._run(state, self.drop_words(self.embed(tokens)).unsqueeze(2))
        return self.logits(self._seen(hidden.squeeze(2))), state, None

    def _run(self, state: LstmState, inputs: Tensor) -> tuple[Tensor, LstmState]:
        """Inputs ``[B, N, T, E]`` -> hidden states ``[B, N, T, H]`` and where they end."""
        captions = inputs.shape[:2]
        start = tuple(part.flatten(0, 1).unsqueeze(0).to(inputs.dtype) for part in state)
        hidden, ends = self.lstm(inputs.flatten(0, 1), start)
        return hidden.unflatten(0, captions), LstmState(*(end[0].unflatten(0, captions) for end in ends))

    def _seen(self, hidden: Tensor) -> Tensor:
        """What the output layer sees: the state, as an embedding where the embeddings are that layer."""
        hidden = self.drop_state(hidden)
        return hidden if self.out_hidden is None else self.drop(self.out_hidden(hidden))

    def _initialise(self) -> None:
        """Embeddings of unit length, as they may be the output layer too; forget gates that start open."""
        nn.init.normal_(self.embed.weight, std=self.config.embed_dim**-0.5)
        with torch.no_grad():
            self.lstm.get_parameter("bias_ih_l0")[self.config.hidden_dim : 2 * self.config.hidden_dim] += 1


def _image_layers(config: DecoderConfig) -> nn.Sequential:
    """From C channels, through the bottleneck if there is one, to an input or a state of the LSTM."""
    width = config.embed_dim if config.image_as == "first-input" else config.hidden_dim
    between = [config.image_bottleneck] if config.image_bottleneck else []
    sizes = [config.channels, *between, width]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers.append(nn.Linear(before, after))
        if config.image_activation == "elu":
            layers.append(nn.ELU())
    return nn.Sequential(*layers)
