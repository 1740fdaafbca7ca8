"""The transformer decoder: attention to previous words and to the grid (Vaswani et al. 2017).

Pre-norm: each sublayer reads a normalised residual stream and adds to it (Xiong et al. 2020), so training needs no
long warmup. Teacher forcing computes all steps at once; generation caches keys and values.

Shapes: B images, N captions per image, T steps, t steps so far, M rows (non-padding words), L grid cells,
C encoder channels, D = h d channels of the stream in h heads, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.decoders.config import DecoderConfig
from captionbeam.capmodel.decoders.packing import PackedTokens

Memory = tuple[Tensor, Tensor]
"""Keys and values of the grid, ``[B, h, L, d]`` each: one layer's, once an image."""


class TransformerState(NamedTuple):
    """Decoding state of N captions per image, which share the grid's keys and values."""

    memories: tuple[Memory, ...]
    caches: tuple[Tensor, ...]  # per layer [B, N, t, 2D]: keys and values of the words so far

    def select(self, index: Tensor) -> TransformerState:
        """Returns the state of captions ``index`` ``[B, N']``: new caption n' continues caption ``index[b, n']``."""
        images, captions = self.caches[0].shape[:2]
        rows = (index + captions * torch.arange(images, device=index.device).unsqueeze(1)).flatten()
        caches = (cache.flatten(0, 1).index_select(0, rows) for cache in self.caches)
        return self._replace(caches=tuple(cache.unflatten(0, index.shape) for cache in caches))


class Layer(nn.Module):
    """Transformer layer: self-attention, attention to the grid and a feed-forward network, each with a residual."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, self.heads = config.embed_dim, config.heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.from_words = nn.Linear(width, 3 * width)
        self.to_words = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.from_grid = nn.Linear(width, 2 * width)
        self.to_grid = nn.Linear(width, width)
        self.widen = nn.Linear(width, config.feedforward)
        self.narrow = nn.Linear(config.feedforward, width)
        self.drop = nn.Dropout(config.dropout)

    def memory_of(self, grid: Tensor) -> Memory:
        """Returns the keys and values of the projected grid ``[B, L, D]``."""
        keys, values = self._heads(self.from_grid(grid), 2).contiguous()  # once instead of at each step
        return keys, values

    def forward(self, rows: Tensor, packing: PackedTokens, memory: Memory) -> Tensor:
        """Runs all steps at once: the stream ``[M, D]`` before and after this layer."""
        images, captions, steps = packing.shape
        words = packing.spread(self.from_words(self.norms[0](rows))).view(images * captions, steps, -1)
        query, keys, values = self._heads(words, 3)
        mixed = functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
        rows = rows + self.drop(self.to_words(packing.pack(_merged(mixed).flatten(0, 1))))
        words = packing.spread(self.query(self.norms[1](rows))).view(images, captions * steps, -1)
        (query,) = self._heads(words, 1)
        seen = functional.scaled_dot_product_attention(query, *memory)
        rows = rows + self.drop(self.to_grid(packing.pack(_merged(seen).flatten(0, 1))))
        return self._feed_forward(rows)

    def step(self, stream: Tensor, cache: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Runs one step; returns the stream ``[B, N, D]``, the extended cache, and weights ``[B, N, L]``."""
        width, captions = stream.shape[-1], stream.shape[:2]
        words = self.from_words(self.norms[0](stream)).unsqueeze(2)
        cache = torch.cat([cache, words[..., width:]], dim=2)
        (query,) = self._heads(words[..., :width].flatten(0, 1), 1)
        mixed = functional.scaled_dot_product_attention(query, *self._heads(cache.flatten(0, 1), 2))
        stream = stream + self.drop(self.to_words(_merged(mixed).view(*captions, width)))
        (query,) = self._heads(self.query(self.norms[1](stream)), 1)
        seen, weights = _attend(query, *memory)
        stream = stream + self.drop(self.to_grid(_merged(seen)))
        return self._feed_forward(stream), cache, weights

    def _feed_forward(self, rows: Tensor) -> Tensor:
        return rows + self.drop(self.narrow(torch.relu(self.widen(self.norms[2](rows)))))

    def _heads(self, mixed: Tensor, parts: int) -> Tensor:
        """Splits channels into parts and heads: ``[B, T, parts D]`` -> ``[parts, B, h, T, d]``."""
        return mixed.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)


def _merged(heads: Tensor) -> Tensor:
    """Merges heads: ``[B, h, T, d]`` -> ``[B, T, D]``."""
    return heads.transpose(1, 2).flatten(2)


def _attend(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns attention ``[B, h, N, d]`` and its weights averaged over heads, float32 ``[B, N, L]``."""
    scores = query @ keys.mT * query.shape[-1] ** -0.5
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    return weights.to(values.dtype) @ values, weights.mean(1)


def sinusoids(steps: int, width: int) -> Tensor:
    """Returns sinusoidal position embeddings ``[steps, width]`` float32 (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(steps).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class TransformerDecoder(Decoder):
    """Transformer decoder. A step's weights over the grid are those of the last layer, averaged over heads."""

    waves: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.project = nn.Linear(c.channels, c.embed_dim)
        self.normalise = nn.LayerNorm(c.embed_dim)
        self.embed = nn.Embedding(c.vocab_size, c.embed_dim)
        self.places = nn.Embedding(c.max_length, c.embed_dim) if c.positions == "learned" else None
        self.register_buffer("waves", sinusoids(c.max_length, c.embed_dim), persistent=False)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.settle = nn.LayerNorm(c.embed_dim)
        self._add_output()
        self._initialise()

    def read(self, features: Tensor, tokens: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | float]:
        """Implements ``Decoder.read``; skips the words after a caption's last wanted position."""
        counts = wanted.flip(-1).cumsum(-1).flip(-1) > 0
        steps = int(counts.flatten(0, 1).any(0).sum())
        counts, tokens, wanted = (part[..., :steps] for part in (counts, tokens, wanted))
        packing = PackedTokens.of(counts)
        rows = self._words(tokens, 0).flatten(0, 2)
        rows = self.drop_words(packing.pack(rows))
        for layer, memory in zip(self._stack, self._memories(features), strict=True):
            rows = layer(rows, packing, memory)
        chosen = packing.pack(wanted.flatten())
        return self.settle(rows[chosen]), 0.0

    def begin(self, features: Tensor) -> TransformerState:
        """Returns the state of one caption (N = 1) per image, before START. Features as in ``forward``."""
        memories = self._memories(features)
        keys = memories[0][0]
        empty = keys.new_empty(len(keys), 1, 0, 2 * self.config.embed_dim)
        return TransformerState(memories, (empty,) * len(memories))

    def step(self, state: TransformerState, tokens: Tensor) -> tuple[Tensor, TransformerState, Tensor]:
        """Implements ``Decoder.step``."""
        stream = self.drop_words(self._words(tokens.unsqueeze(-1), state.caches[0].shape[2]).squeeze(2))
        caches, weights = [], stream
        for layer, cache, memory in zip(self._stack, state.caches, state.memories, strict=True):
            stream, cache, weights = layer.step(stream, cache, memory)
            caches.append(cache)
        return self.logits(self.settle(stream)), state._replace(caches=tuple(caches)), weights

    @property
    def _stack(self) -> Iterable[Layer]:
        return cast(Iterable[Layer], self.layers)

    def _memories(self, features: Tensor) -> tuple[Memory, ...]:
        grid = self._projected(features, self.project, self.normalise)
        return tuple(layer.memory_of(grid) for layer in self._stack)

    def _words(self, tokens: Tensor, start: int) -> Tensor:
        """Embeds ``tokens`` ``[B, N, T]``, which start at position ``start``: ``[B, N, T, D]``."""
        width, end = self.config.embed_dim, start + tokens.shape[-1]
        places = self.waves if self.places is None else self.places.weight
        if self.places is None and end > len(self.waves):
            places = sinusoids(end, width).to(self.waves)
        return self.embed(tokens) * width**0.5 + places[start:end]

    def _initialise(self) -> None:
        """Glorot initialisation; embeddings to unit expected norm, since they may also be the output layer."""
        for module in (self.project, *self.layers.modules()):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embed.weight, std=self.config.embed_dim**-0.5)
