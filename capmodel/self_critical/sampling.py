"""Captions that the decoder draws of itself: what it would say, said at random.

Shapes: B images, K captions an image, T steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.generation.choices import draw, uniforms
from captionbeam.capmodel.generation.options import DecodeOptions

PLAIN = DecodeOptions(method="sample")  # of all words, from the logits as they are given


@torch.no_grad()
def draw_captions(
    decoder: Decoder,
    features: Tensor,
    names: Sequence[str],
    samples: int,
    seed: int,
    greedy: bool,
    temperature: float = 1.0,
) -> np.ndarray:
    """``[B, K, T]`` int64: ``samples`` captions of each image, the greedy one after them where wanted.

    Words are drawn from ``p^(1 / temperature)``.

    A caption goes up to END, then PAD. One that reaches the decoder's maximum length has no END: what would stand
    in its last place is not chosen. Sample i of an image depends on (seed, its name, i), up to rounding.

    Captions that have ended leave the batch, as far as every image has others than those: where K run at first, few
    do in the many steps that the longest captions take (on Flickr8k half the time of walking on with all of them).
    """
    config, device = decoder.config, features.device
    steps, rows = config.max_length - 2, samples + greedy
    numbers = torch.from_numpy(uniforms(seed, names, rows, steps)).to(device)
    written = torch.full((len(features), rows, steps), config.pad, device=device)
    state, tokens = decoder.begin(features), torch.full((len(features), 1), config.start, device=device)
    which = torch.arange(rows, device=device).expand(len(features), rows)
    running = torch.ones_like(which, dtype=torch.bool)
    for step in range(steps):
        logits, state, _ = decoder.step(state, tokens)
        if not step:
            state, logits = state.select(torch.zeros_like(which)), logits.expand(-1, rows, -1)
        chosen = _choose(
            allowed(logits, decoder, temperature), numbers[..., step].gather(1, which), which >= samples
        )
        tokens = torch.where(running, chosen, config.pad)
        written[..., step].scatter_(1, which, tokens)
        running = running & (tokens != config.end)
        left = int(running.sum(1).max())
        if not left:
            break
        if left < running.shape[1]:
            keep = running.int().argsort(dim=1, descending=True, stable=True)[:, :left]
            state = state.select(keep)
            tokens, which, running = (part.gather(1, keep) for part in (tokens, which, running))
    return written[..., : step + 1].cpu().numpy()


def allowed(logits: Tensor, decoder: Decoder, temperature: float) -> Tensor:
    """``logits / temperature`` ``[..., V]`` in float32, -inf for what is never drawn: PAD, START and UNK."""
    config = decoder.config
    banned = torch.tensor([config.pad, config.start, config.unk], device=logits.device)
    return (logits.float() / temperature).index_fill(-1, banned, float("-inf"))


def _choose(logits: Tensor, numbers: Tensor, greedy: Tensor) -> Tensor:
    """``[B, n]``: a token drawn by its number, or the likeliest where ``greedy``."""
    drawn = draw(logits, numbers, PLAIN)
    return torch.where(greedy, logits.argmax(-1), drawn) if bool(greedy.any()) else drawn


@contextmanager
def policy(decoder: Decoder, mask: int | None = None) -> Iterator[None]:
    """The decoder as it will be used, gradients and all.

    ``mask``: a seed for the decoder's grid dropout, which the policy has then: each time the same features become the
    same grid. None: no dropout at all.
    """
    was_training = decoder.training
    decoder.eval()
    for module in decoder.modules():
        if isinstance(
            module, nn.RNNBase
        ):  # has no dropout of its own, and cuDNN's goes back in training mode only
            module.train()
    try:
        if mask is None:
            yield
            return
        decoder.drop_grid.train()
        device = decoder.embed.weight.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(mask)
            yield
    finally:
        decoder.train(was_training)
