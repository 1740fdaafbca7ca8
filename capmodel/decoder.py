"""The attentive decoder: a grid of features becomes a sentence, word by word.

Show, Attend and Tell (Xu et al. 2015) with additive attention that also sees the word just read.

Shapes: B images, N captions an image, T steps, V vocabulary, L grid cells, C channels of the encoder,
F channels of the projected grid, E embedding, H hidden, A attention.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from capmodel.attention import AdditiveAttention
from capmodel.blocks import Blocks
from schemas.errors import RequestError


@dataclass(frozen=True)
class DecoderConfig:
    """All that the decoder's weights depend on. Raises RequestError where a value makes no sense.

    ``feature_shape`` is that of one image's features: ``(H, W, C)`` for a grid, ``(C,)`` for pooled ones.
    ``max_length`` counts START and END, as the tokenizer's does.
    """

    vocab_size: int
    feature_shape: tuple[int, ...]
    embed_dim: int = 256
    hidden_dim: int = 512
    attention_dim: int = 256
    feature_dim: int = 512
    dropout: float = 0.5
    grid_dropout: float = 0.1
    max_length: int = 64
    pad: int = 0
    unk: int = 1
    start: int = 2
    end: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "feature_shape", tuple(int(size) for size in self.feature_shape))
        for name in ("vocab_size", "embed_dim", "hidden_dim", "attention_dim", "feature_dim"):
            _expect(getattr(self, name) >= 1, name, getattr(self, name), "a positive number")
        shape = self.feature_shape
        _expect(len(shape) in (1, 3) and min(shape) >= 1, "feature_shape", shape, "[H, W, C] or [C]")
        for name in ("dropout", "grid_dropout"):
            _expect(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
        _expect(self.max_length >= 3, "max_length", self.max_length, "3 or more (START, a token, END)")
        specials = (self.pad, self.unk, self.start, self.end)
        known = len(set(specials)) == 4 and set(specials) <= set(range(self.vocab_size))
        _expect(known, "pad, unk, start, end", specials, f"four ids of a vocabulary of {self.vocab_size}")

    @property
    def channels(self) -> int:
        """C: channels of the encoder's features."""
        return self.feature_shape[-1]

    @property
    def cells(self) -> int:
        """L: cells of the grid; 1 for pooled features."""
        return self.feature_shape[0] * self.feature_shape[1] if len(self.feature_shape) == 3 else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` reads them back."""
        return {**asdict(self), "feature_shape": list(self.feature_shape)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecoderConfig:
        """The config that ``to_dict`` wrote. Raises RequestError for fields that are not ours."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        _expect(not unknown, "decoder config fields", unknown, "none beyond this version's")
        return cls(**values)


def _expect(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise RequestError(f"{name} is {value!r}; expected {expected}")


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


class AttentiveDecoder(nn.Module):
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
        """Teacher forcing: logits of the word after each of ``tokens`` ``[B, N, T]`` (int64, START first).

        ``features`` are ``[B, L, C]``, ``[B, H, W, C]`` or ``[B, C]`` of any float type. Without ``targets``
        the logits are ``[B, N, T, V]``. With ``targets`` ``[B, N, T]`` they are ``[M, V]``, for the M targets
        that are not PAD in row-major order (that of ``targets[targets != pad]``), and nothing is computed for
        the others: on Flickr8k half the time.
        """
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
