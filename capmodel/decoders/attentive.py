"""The attentive decoder: a grid of features becomes a sentence, word by word.

Show, Attend and Tell (Xu et al. 2015) with additive attention that also sees the word just read.

Shapes: B images, N captions an image, T steps, V vocabulary, L grid cells, C channels of the encoder,
F channels of the projected grid, E embedding, H hidden, A attention.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from capmodel.blocks import Blocks
from capmodel.decoders.attention import AdditiveAttention
from capmodel.decoders.base import Decoder
from capmodel.decoders.config import DecoderConfig


class DecoderState(NamedTuple):
    """Where N captions of each image stand; the grid is kept once an image."""

    keys: Tensor  # [B, L, A]
    values: Tensor  # [B, L, F]
    hidden: Tensor  # [B, N, H]
    cell: Tensor  # [B, N, H]

    def select(self, index: Tensor) -> DecoderState:
        """``index`` ``[B, N']``: which of the N captions each of the N' new ones goes on from."""
        index = index.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1])
        return self._replace(hidden=self.hidden.gather(1, index), cell=self.cell.gather(1, index))


class AttentiveDecoder(Decoder):
    """LSTM that starts from zero; each step reads a word and the cells that word and state attend to.

    The word's share of attention and gates does not depend on the state: it is computed for all steps at
    once, and so is the output layer, whose vocabulary weights are the embeddings themselves.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.project = nn.Linear(c.channels, c.feature_dim)
        self.normalise = nn.LayerNorm(c.feature_dim)
        self.embed = nn.Embedding(c.vocab_size, c.embed_dim)
        self.attention = AdditiveAttention(c.feature_dim, c.attention_dim)
        self.from_word = nn.Linear(c.embed_dim, c.attention_dim + 4 * c.hidden_dim)
        self.from_hidden = nn.Linear(c.hidden_dim, sum(self._parts()), bias=False)
        self.from_context = nn.Linear(c.feature_dim, 4 * c.hidden_dim, bias=False)
        self.out_hidden = nn.Linear(c.hidden_dim, c.embed_dim)
        self.out_context = nn.Linear(c.feature_dim, c.embed_dim, bias=False)
        self.out_bias = nn.Parameter(torch.zeros(c.vocab_size))
        self.drop = nn.Dropout(c.dropout)
        self.drop_grid = nn.Dropout(c.grid_dropout)
        self._initialise()

    def forward(self, features: Tensor, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """As ``Decoder.forward`` says; with ``targets`` the steps run over shrinking blocks."""
        wanted = torch.ones_like(tokens, dtype=torch.bool) if targets is None else targets != self.config.pad
        blocks = Blocks.of(wanted)
        words = self.drop(self.embed(blocks.rows(tokens)))
        state = self._rearranged(self.begin(features), blocks, tokens.shape[1])
        hidden, context = self._run(state, self.from_word(words), blocks.sizes)
        picks = blocks.picks
        logits = self._logits(*(rows.index_select(0, picks) for rows in (hidden, context, words)))
        return logits.view(*tokens.shape, -1) if targets is None else logits

    def begin(self, features: Tensor) -> DecoderState:
        """One caption (N = 1) of each image, before its first word. Features as in ``forward``."""
        flat = features.reshape(len(features), self.config.cells, self.config.channels)
        kept = flat.dtype if torch.is_autocast_enabled(flat.device.type) else self.project.weight.dtype
        values = self.normalise(self.project(flat.to(kept)))  # autocast's own conversion is enough
        values = self.drop_grid(values)
        zeros = values.new_zeros(len(features), 1, self.config.hidden_dim, dtype=torch.float32)
        return DecoderState(self.attention.keys(values), values, zeros, zeros)

    def step(self, state: DecoderState, tokens: Tensor) -> tuple[Tensor, DecoderState, Tensor]:
        """Read ``tokens`` ``[B, N]``: logits ``[B, N, V]`` of the next, the state, weights ``[B, N, L]``."""
        words = self.drop(self.embed(tokens))
        state, context, weights = self._advance(state, self.from_word(words))
        return self._logits(state.hidden, context, words), state, weights

    def _advance(self, state: DecoderState, word: Tensor) -> tuple[DecoderState, Tensor, Tensor]:
        """One LSTM step from the word's share ``[B, N, A + 4H]``: state, context ``[B, N, F]``, weights."""
        query, gates, gate = self.from_hidden(state.hidden).split(self._parts(), dim=-1)
        word_query, word_gates = word.split(self._parts()[:2], dim=-1)
        context, weights = self.attention(state.keys, state.values, word_query + query)
        context = torch.sigmoid(gate) * context
        gates = word_gates + gates + self.from_context(context)
        keep_in, keep_out, show, new = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(keep_out) * state.cell + torch.sigmoid(keep_in) * torch.tanh(new)
        hidden = torch.sigmoid(show) * torch.tanh(cell)
        return state._replace(hidden=hidden, cell=cell), context, weights

    def _parts(self) -> list[int]:
        """What a hidden state gives: a query, the LSTM's gates, the context's gate. A word: the first two."""
        return [self.config.attention_dim, 4 * self.config.hidden_dim, self.config.feature_dim]

    def _run(self, state: DecoderState, words: Tensor, sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """All steps over shrinking blocks: hidden states ``[rows, H]`` and contexts ``[rows, F]``."""
        hidden, contexts = [], []
        for (b, n), word in zip(sizes, words.split([b * n for b, n in sizes]), strict=True):
            corner = DecoderState(state.keys[:b], state.values[:b], state.hidden[:b, :n], state.cell[:b, :n])
            state, context, _ = self._advance(corner, word.view(b, n, -1))
            hidden.append(state.hidden.flatten(0, 1))
            contexts.append(context.flatten(0, 1))
        return torch.cat(hidden), torch.cat(contexts)

    def _logits(self, hidden: Tensor, context: Tensor, words: Tensor) -> Tensor:
        """``L(word + W_h h + W_z context)`` (Xu et al., equation 7), L being the embeddings."""
        blend = self.out_hidden(self.drop(hidden)) + self.out_context(context) + words
        return functional.linear(self.drop(blend), self.embed.weight, self.out_bias)

    @staticmethod
    def _rearranged(state: DecoderState, blocks: Blocks, captions: int) -> DecoderState:
        """``state`` with images in the blocks' order and N captions each."""
        keys, values = (grid.index_select(0, blocks.images) for grid in (state.keys, state.values))
        hidden, cell = (part.expand(-1, captions, -1) for part in (state.hidden, state.cell))
        return DecoderState(keys, values, hidden, cell)

    def _initialise(self) -> None:
        """Embeddings of unit length, as they are the output layer too; forget gates that start open."""
        nn.init.normal_(self.embed.weight, std=self.config.embed_dim**-0.5)
        start = self.config.attention_dim + self.config.hidden_dim
        with torch.no_grad():
            self.from_word.bias[start : start + self.config.hidden_dim] += 1
