"""Pretrained word vectors as a decoder's embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from captionbeam.capmodel.decoders.word_vectors import WordVectors


def load_word_vectors(vectors: WordVectors, embed: nn.Embedding) -> None:
    """Copies the vectors into the embedding rows of their words; other rows are unchanged."""
    with torch.no_grad():
        embed.weight[torch.from_numpy(vectors.ids).to(embed.weight.device)] = _rows(vectors, embed.weight)


def freeze_word_vectors(vectors: WordVectors, embed: nn.Embedding, optimizer: Optimizer) -> None:
    """Keeps the rows that have a vector fixed during training; the other rows are trained."""
    learns = torch.ones(len(embed.weight), 1, device=embed.weight.device)
    learns[torch.from_numpy(vectors.ids)] = 0.0
    embed.weight.register_hook(lambda gradient: gradient * learns)

    def restore(*_: Any) -> None:
        load_word_vectors(vectors, embed)  # weight decay also changes rows without a gradient

    optimizer.register_step_post_hook(restore)


def _rows(vectors: WordVectors, like: Tensor) -> Tensor:
    return torch.from_numpy(vectors.rows).to(like)
