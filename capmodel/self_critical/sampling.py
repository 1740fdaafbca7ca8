"""Samples captions from a decoder.

Shapes: B images, K captions per image, T steps, V vocabulary.
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

PLAIN = DecodeOptions(method="sample")  # from all words, with unmodified logits


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
    """Returns ``[B, K, T]`` int64: ``samples`` captions per image, then the greedy one if ``greedy``.

    Words are drawn from ``p^(1 / temperature)``.

    A caption goes up to END, then PAD. One that reaches the decoder's maximum length has no END, since its last token
    would not be a choice. Sample i of an image depends on (seed, its name, i), up to rounding.

    Finished captions are removed from the batch as far as every image allows: few of the K captions run in the many
    steps of the longest ones (on Flickr8k this halves the time).
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
        own = policy_logits(logits, decoder, temperature)
        chosen = draw(own, numbers[..., step].gather(1, which), PLAIN)
        if greedy:
            chosen = torch.where(which >= samples, own.argmax(-1), chosen)
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


def policy_logits(logits: Tensor, decoder: Decoder, temperature: float) -> Tensor:
    """Returns ``logits / temperature`` ``[..., V]`` in float32, with -inf for PAD, START and UNK."""
    config = decoder.config
    banned = torch.tensor([config.pad, config.start, config.unk], device=logits.device)
    return (logits.float() / temperature).index_fill(-1, banned, float("-inf"))


@contextmanager
def policy(decoder: Decoder, mask: int | None = None) -> Iterator[None]:
    """Puts the decoder in inference mode with gradients, inside this context.

    ``mask``: a seed for the decoder's grid dropout, which then maps the same features to the same grid each time. None:
    no dropout.
    """
    was_training = decoder.training
    decoder.eval()
    for module in decoder.modules():
        if isinstance(module, nn.RNNBase):  # without dropout; cuDNN's backward pass needs training mode
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
