"""The attentive decoder: an LSTM with attention over a feature grid.

Show, Attend and Tell (Xu et al. 2015), with attention that also depends on the current word.

Shapes: B images, N captions per image, T steps, V vocabulary, L grid cells, C encoder channels,
F channels of the projected grid, E embedding, H hidden, A attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captionbeam.capmodel.decoders.attention import make_attention
from captionbeam.capmodel.decoders.base import Decoder, selected
from captionbeam.capmodel.decoders.config import DecoderConfig
from captionbeam.capmodel.decoders.deferred_linear import deferred
from captionbeam.capmodel.decoders.packing import PackedCaptions

Layer = Callable[[Tensor], Tensor]


class DecoderState(NamedTuple):
    """Decoding state of N captions per image; the grid is stored once per image."""

    keys: Tensor  # [B, L, A]
    values: Tensor  # [B, L, F]
    hidden: Tensor  # [B, N, H]
    cell: Tensor  # [B, N, H]

    def select(self, index: Tensor) -> DecoderState:
        """Returns the state of captions ``index`` ``[B, N']``: new caption n' continues caption ``index[b, n']``."""
        return self._replace(hidden=selected(self.hidden, index), cell=selected(self.cell, index))


class AttentiveDecoder(Decoder):
    """LSTM decoder that attends to the grid at each word.

    The initial state is zeros or computed from the grid's mean (Xu et al., section 3.1.2). The word's contribution to
    attention and gates does not depend on the state, so it is computed for all steps at once, as is the output layer.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.project = nn.Linear(c.channels, c.feature_dim)
        self.normalise = nn.LayerNorm(c.feature_dim)
        self.embed = nn.Embedding(c.vocab_size, c.embed_dim)
        self.attention = make_attention(c)
        self.from_word = nn.Linear(c.embed_dim, c.attention_dim + 4 * c.hidden_dim)
        self.from_hidden = nn.Linear(c.hidden_dim, sum(self._widths()), bias=False)
        self.from_context = nn.Linear(c.feature_dim, 4 * c.hidden_dim, bias=False)
        self.out_hidden = nn.Linear(c.hidden_dim, c.embed_dim)
        self.out_context = nn.Linear(c.feature_dim, c.embed_dim, bias=False)
        self.start = nn.Linear(c.feature_dim, 2 * c.hidden_dim) if c.initial_state == "mean" else None
        self._add_output()
        self._initialise()

    def read(self, features: Tensor, tokens: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | float]:
        """Implements ``Decoder.read``; the steps run over blocks that shrink as captions end."""
        blocks = PackedCaptions.of(wanted)
        words = self.drop_words(self.embed(blocks.rows(tokens)))
        state = self._reordered(self.begin(features), blocks, tokens.shape[1])
        hidden, context, weights = self._run(state, self.from_word(words), blocks.sizes)
        picks = blocks.picks
        seen = self._output_input(*(rows.index_select(0, picks) for rows in (hidden, context, words)))
        return seen, 0.0 if weights is None else self._doubly_stochastic_loss(
            weights.index_select(0, picks), wanted
        )

    def begin(self, features: Tensor) -> DecoderState:
        """Returns the state of one caption (N = 1) per image, before START. Features as in ``forward``."""
        values = self._projected(features, self.project, self.normalise)
        hidden, cell = self._first_state(values)
        keys, values = self.attention.keys(values), self.attention.values(values)
        return DecoderState(keys, values, hidden, cell)

    def _first_state(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the initial hidden and cell states ``[B, 1, H]``, from the projected grid ``[B, L, F]``."""
        if self.start is None:
            zeros = values.new_zeros(len(values), 1, self.config.hidden_dim, dtype=torch.float32)
            return zeros, zeros
        hidden, cell = torch.tanh(self.start(values.mean(1, keepdim=True)).float()).chunk(2, dim=-1)
        return hidden, cell

    def step(self, state: DecoderState, tokens: Tensor) -> tuple[Tensor, DecoderState, Tensor]:
        """Reads ``tokens`` ``[B, N]``; returns next-word logits ``[B, N, V]``, the state, and weights ``[B, N, L]``."""
        words = self.drop_words(self.embed(tokens))
        state, context, weights = self._advance(
            state, self.from_word(words), (self.from_hidden, self.from_context)
        )
        return self.logits(self._output_input(state.hidden, context, words)), state, weights

    def _advance(
        self, state: DecoderState, word: Tensor, layers: tuple[Layer, Layer]
    ) -> tuple[DecoderState, Tensor, Tensor]:
        """Runs one LSTM step; returns the state, the context ``[B, N, F]`` and the weights ``[B, N, L]``.

        ``word``: the word's projection ``[B, N, A + 4H]``. ``layers``: the projections of hidden state and context.
        """
        from_hidden, from_context = layers
        query, gates, *gate = from_hidden(state.hidden).split(self._widths(), dim=-1)
        word_query, word_gates = word.split(self._widths()[:2], dim=-1)
        context, weights = self.attention(state.keys, state.values, word_query + query)
        for beta in gate:
            context = torch.sigmoid(beta) * context
        gates = word_gates + gates + from_context(context)
        keep_in, keep_out, show, new = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(keep_out) * state.cell + torch.sigmoid(keep_in) * torch.tanh(new)
        hidden = torch.sigmoid(show) * torch.tanh(cell)
        return state._replace(hidden=hidden, cell=cell), context, weights

    def _widths(self) -> list[int]:
        """Output widths of the hidden state's projection: query, LSTM gates, context gate. A word has the first two."""
        gate = {"vector": [self.config.feature_dim], "scalar": [1], "none": []}[self.config.gate]
        return [self.config.attention_dim, 4 * self.config.hidden_dim, *gate]

    def _run(
        self, state: DecoderState, words: Tensor, sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Runs all steps over shrinking blocks; returns hidden states ``[rows, H]`` and contexts ``[rows, F]``.

        Also returns the weights ``[rows, L]`` if the doubly stochastic penalty needs them, else None.
        """
        hidden, contexts, weights = [], [], []
        layers = deferred(self.from_hidden), deferred(self.from_context)
        for (b, n), word in zip(sizes, words.split([b * n for b, n in sizes]), strict=True):
            corner = DecoderState(state.keys[:b], state.values[:b], state.hidden[:b, :n], state.cell[:b, :n])
            state, context, weight = self._advance(corner, word.view(b, n, -1), layers)
            hidden.append(state.hidden.flatten(0, 1))
            contexts.append(context.flatten(0, 1))
            weights.append(weight.flatten(0, 1))
        kept = torch.cat(weights) if self.config.doubly_stochastic else None
        return torch.cat(hidden), torch.cat(contexts), kept

    def _doubly_stochastic_loss(self, weights: Tensor, wanted: Tensor) -> Tensor:
        """Returns ``lambda`` times the sum over captions and cells of ``(1 - sum of the weights over time) ** 2``."""
        captions = wanted.flatten(0, 1)
        owner = captions.nonzero()[:, 0]
        given = weights.new_zeros(len(captions), self.config.cells).index_add(0, owner, weights)
        return self.config.doubly_stochastic * (1 - given[captions.any(1)]).square().sum()

    def _output_input(self, hidden: Tensor, context: Tensor, words: Tensor) -> Tensor:
        """Returns the output layer's input, ``word + W_h h + W_z context`` (Xu et al., equation 7)."""
        return self.drop(self.out_hidden(self.drop_state(hidden)) + self.out_context(context) + words)

    @staticmethod
    def _reordered(state: DecoderState, blocks: PackedCaptions, captions: int) -> DecoderState:
        """Reorders the images of ``state`` to the order of ``blocks`` and expands it to N captions per image."""
        keys, values, hidden, cell = (part.index_select(0, blocks.images) for part in state)
        return DecoderState(keys, values, *(part.expand(-1, captions, -1) for part in (hidden, cell)))

    def _initialise(self) -> None:
        """Initialises embeddings to unit expected norm (they may be the output weights) and forget-gate biases to 1."""
        nn.init.normal_(self.embed.weight, std=self.config.embed_dim**-0.5)
        start = self.config.attention_dim + self.config.hidden_dim
        with torch.no_grad():
            self.from_word.bias[start : start + self.config.hidden_dim] += 1
