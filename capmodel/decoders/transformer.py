"""The transformer decoder: words attend to the words before them and to the grid (Vaswani et al. 2017).

Pre-norm: each sublayer reads a normalised stream and adds to it (Xiong et al. 2020), so that training needs no
long warmup. All steps of teacher forcing are computed at once; a step of generation reads cached keys and values.

Shapes: B images, N captions an image, T steps, t steps so far, M rows (words that count), L grid cells,
C channels of the encoder, D = h d channels of the stream in h heads, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.decoders.config import DecoderConfig

Memory = tuple[Tensor, Tensor]
"""Keys and values of the grid, ``[B, h, L, d]`` each: one layer's, once an image."""


class TransformerState(NamedTuple):
    """Where N captions of each image stand. The grid's keys and values are shared by an image's captions."""

    memories: tuple[Memory, ...]
    caches: tuple[Tensor, ...]  # of each layer [B, N, t, 2D]: keys and values of the words so far

    def select(self, index: Tensor) -> TransformerState:
        """``index`` ``[B, N']``: which of the N captions each of the N' new ones goes on from."""
        images, captions = self.caches[0].shape[:2]
        rows = (index + captions * torch.arange(images, device=index.device).unsqueeze(1)).flatten()
        caches = (cache.flatten(0, 1).index_select(0, rows) for cache in self.caches)
        return self._replace(caches=tuple(cache.unflatten(0, index.shape) for cache in caches))


@dataclass(frozen=True)
class Packing:
    """Where the words that count, the M rows, lie among ``[B, N, T]`` places; None: everywhere.

    All but attention works on rows alone, so that PAD costs little: on Flickr8k more than half of the places.
    """

    shape: tuple[int, int, int]
    places: Tensor | None  # [M] int64

    @classmethod
    def of(cls, counts: Tensor) -> Packing:
        """Of ``counts`` ``[B, N, T]``, True where a word counts."""
        places = None if bool(counts.all()) else counts.flatten().nonzero().squeeze(1)
        images, captions, steps = counts.shape
        return cls((images, captions, steps), places)

    def pack(self, spread: Tensor) -> Tensor:
        """``[B N T, ...]`` -> ``[M, ...]``."""
        return spread if self.places is None else spread.index_select(0, self.places)

    def spread(self, rows: Tensor) -> Tensor:
        """``[M, ...]`` -> ``[B N T, ...]``, zeros elsewhere."""
        if self.places is None:
            return rows
        everywhere = rows.new_zeros(math.prod(self.shape), *rows.shape[1:])
        return everywhere.index_copy(0, self.places, rows)


class Layer(nn.Module):
    """Self-attention, attention to the grid, and a two-layer network, each added to the stream."""

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

    def remember(self, grid: Tensor) -> Memory:
        """The keys and values of the projected grid ``[B, L, D]``."""
        keys, values = self._heads(self.from_grid(grid), 2).contiguous()  # once, not at each step
        return keys, values

    def forward(self, rows: Tensor, packing: Packing, memory: Memory) -> Tensor:
        """All steps at once: the stream ``[M, D]`` before and after this layer."""
        images, captions, steps = packing.shape
        words = packing.spread(self.from_words(self.norms[0](rows))).view(images * captions, steps, -1)
        query, keys, values = self._heads(words, 3)
        mixed = functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
        rows = rows + self.drop(self.to_words(packing.pack(_merged(mixed).flatten(0, 1))))
        words = packing.spread(self.query(self.norms[1](rows))).view(images, captions * steps, -1)
        (query,) = self._heads(words, 1)
        seen = functional.scaled_dot_product_attention(query, *memory)
        rows = rows + self.drop(self.to_grid(packing.pack(_merged(seen).flatten(0, 1))))
        return self._think(rows)

    def step(self, stream: Tensor, cache: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """One step: the stream ``[B, N, D]`` after this layer, its longer cache, weights ``[B, N, L]``."""
        width, captions = stream.shape[-1], stream.shape[:2]
        words = self.from_words(self.norms[0](stream)).unsqueeze(2)
        cache = torch.cat([cache, words[..., width:]], dim=2)
        (query,) = self._heads(words[..., :width].flatten(0, 1), 1)
        mixed = functional.scaled_dot_product_attention(query, *self._heads(cache.flatten(0, 1), 2))
        stream = stream + self.drop(self.to_words(_merged(mixed).view(*captions, width)))
        (query,) = self._heads(self.query(self.norms[1](stream)), 1)
        seen, weights = _attend(query, *memory)
        stream = stream + self.drop(self.to_grid(_merged(seen)))
        return self._think(stream), cache, weights

    def _think(self, rows: Tensor) -> Tensor:
        return rows + self.drop(self.narrow(torch.relu(self.widen(self.norms[2](rows)))))

    def _heads(self, mixed: Tensor, parts: int) -> Tensor:
        """``[B, T, parts D]`` -> ``[parts, B, h, T, d]``."""
        return mixed.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)


def _merged(heads: Tensor) -> Tensor:
    """``[B, h, T, d]`` -> ``[B, T, D]``."""
    return heads.transpose(1, 2).flatten(2)


def _attend(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention ``[B, h, N, d]``, and its weights over the cells: the mean over heads, float32 ``[B, N, L]``."""
    scores = query @ keys.mT * query.shape[-1] ** -0.5
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    return weights.to(values.dtype) @ values, weights.mean(1)


def sinusoids(steps: int, width: int) -> Tensor:
    """``[steps, width]`` float32: sines and cosines of each position (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(steps).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class TransformerDecoder(Decoder):
    """Layers of attention over words and grid. A step's weights over the grid are the last layer's, of all heads
    the mean.
    """

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
        self.drop_words = nn.Dropout(c.words_dropped)
        self.drop_grid = nn.Dropout(c.grid_dropout)
        self._initialise()

    def read(self, features: Tensor, tokens: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | float]:
        """As ``Decoder.read`` says; words after the last wanted one of their caption are left out."""
        counts = wanted.flip(-1).cumsum(-1).flip(-1) > 0
        steps = int(counts.flatten(0, 1).any(0).sum())
        counts, tokens, wanted = (part[..., :steps] for part in (counts, tokens, wanted))
        packing = Packing.of(counts)
        rows = self._words(tokens, 0).flatten(0, 2)
        rows = self.drop_words(packing.pack(rows))
        for layer, memory in zip(self._stack, self._memories(features), strict=True):
            rows = layer(rows, packing, memory)
        chosen = packing.pack(wanted.flatten())
        return self.settle(rows[chosen]), 0.0

    def begin(self, features: Tensor) -> TransformerState:
        """One caption (N = 1) of each image, before its first word. Features as in ``forward``."""
        memories = self._memories(features)
        keys = memories[0][0]
        empty = keys.new_empty(len(keys), 1, 0, 2 * self.config.embed_dim)
        return TransformerState(memories, (empty,) * len(memories))

    def step(self, state: TransformerState, tokens: Tensor) -> tuple[Tensor, TransformerState, Tensor]:
        """As ``Decoder.step`` says."""
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
        flat = features.reshape(len(features), self.config.cells, self.config.channels)
        kept = flat.dtype if torch.is_autocast_enabled(flat.device.type) else self.project.weight.dtype
        grid = self.drop_grid(self.normalise(self.project(flat.to(kept))))
        return tuple(layer.remember(grid) for layer in self._stack)

    def _words(self, tokens: Tensor, start: int) -> Tensor:
        """Embedded ``tokens`` ``[B, N, T]``, the first of them at position ``start``: ``[B, N, T, D]``."""
        width, end = self.config.embed_dim, start + tokens.shape[-1]
        places = self.waves if self.places is None else self.places.weight
        if self.places is None and end > len(self.waves):
            places = sinusoids(end, width).to(self.waves)
        return self.embed(tokens) * width**0.5 + places[start:end]

    def _initialise(self) -> None:
        """Glorot's bounds but for the output layer; embeddings of unit length, as they may be that layer too."""
        for module in (self.project, *self.layers.modules()):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embed.weight, std=self.config.embed_dim**-0.5)
