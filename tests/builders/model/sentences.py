"""Captions of several images as token ids, and reading them word by word."""

from __future__ import annotations

import torch
from torch import Tensor

from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.tokenizers import Tokenizer

TEXTS = [["a dog runs", "two cats"], ["cats sleep on grass", "a dog"], ["a", "dog runs on grass two cats"]]


def padded(tokenizer: Tokenizer, texts: list[list[str]] = TEXTS) -> Tensor:
    """``[B, N, T]`` of START..END, padded."""
    ids = [[tokenizer.encode(text) for text in several] for several in texts]
    longest = max(len(caption) for several in ids for caption in several)
    rows = [[caption + [tokenizer.pad] * (longest - len(caption)) for caption in image] for image in ids]
    return torch.tensor(rows)


def stepped(decoder: Decoder, features: Tensor, tokens: Tensor) -> Tensor:
    """The logits of ``forward``, one step at a time."""
    state = decoder.begin(features).select(torch.zeros(tokens.shape[:2], dtype=torch.int64))
    logits = []
    for word in tokens.unbind(-1):
        step, state, _ = decoder.step(state, word)
        logits.append(step)
    return torch.stack(logits, dim=2)
