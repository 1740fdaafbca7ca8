"""Writing captions word by word: the loop that greedy search, beam search and sampling share.

Shapes: B images, n captions an image before a step and K after it, V vocabulary, L grid cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from capmodel.decoders import DecoderConfig
from capmodel.decoders.base import Decoder, State

Choose = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]
"""(log-probabilities [B, n, V], scores [B, n], step) -> parents (below n), tokens, scores: [B, K]."""

NEVER = float("-inf")


class Rules:
    """What may be written: no PAD, START or (unless allowed) UNK; END in the last step; PAD after END."""

    def __init__(self, config: DecoderConfig, allow_unk: bool, device: torch.device) -> None:
        self.pad, self.end = config.pad, config.end
        banned = [config.pad, config.start, *([] if allow_unk else [config.unk])]
        self.banned = torch.tensor(banned, device=device)
        self.only_end = _vocabulary(config, device, NEVER, {config.end: 0.0})
        self.only_pad = _vocabulary(config, device, NEVER, {config.pad: 0.0})

    def logprobs(self, logits: Tensor, finished: Tensor, last: bool) -> Tensor:
        """``logits [B, n, V]`` as float32 log-probabilities of what may follow, -inf for what may not.

        They are the model's own, over its whole vocabulary: banning a word makes no other one likelier.
        """
        own = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        own[..., self.banned] = NEVER
        if last:
            own += self.only_end
        own[finished] = self.only_pad
        return own


@dataclass
class Trace:
    """All that was written: one entry a step, and the final scores ``[B, K]``."""

    parents: list[Tensor]  # [B, K]
    tokens: list[Tensor]  # [B, K]
    weights: list[Tensor]  # [B, n, L], of the caption that was continued; empty where not kept
    scores: Tensor


def write(
    decoder: Decoder,
    state: State,
    first: Tensor,
    rules: Rules,
    choose: Choose,
    steps: int,
    n_best: int = 1,
    keep_attention: bool = False,
) -> Trace:
    """Continue one caption of each image, from the words ``first`` ``[B, 1]``, for at most ``steps`` tokens.

    As a caption only loses by going on, an image is done when its ``n_best`` likeliest captions are finished.
    The shape of a step never depends on what was written, so that an image's captions do not depend on its
    batch-mates: one that is done is carried along, unchanged, until the last image is.
    """
    tokens, scores = first, torch.zeros(first.shape, device=first.device)
    finished = torch.zeros_like(first, dtype=torch.bool)
    done = finished
    trace = Trace([], [], [], scores)
    for step in range(steps):
        logits, state, weights = decoder.step(state, tokens)
        logprobs = rules.logprobs(logits, finished, last=step == steps - 1)
        parents, tokens, scores = _unless(done, choose(logprobs, scores, step), scores, rules.pad)
        state = state.select(parents)
        finished = finished.gather(1, parents) | (tokens == rules.end) | (scores == NEVER)
        done = finished.gather(1, scores.topk(min(n_best, scores.shape[1])).indices).all(1, keepdim=True)
        trace.parents.append(parents)
        trace.tokens.append(tokens)
        if keep_attention and weights is not None:
            trace.weights.append(weights)
        if bool(done.all()):
            break
    trace.scores = scores
    return trace


def _unless(
    done: Tensor, chosen: tuple[Tensor, Tensor, Tensor], scores: Tensor, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What was chosen; for images that are ``done`` ``[B, 1]`` the captions that they have, and PAD."""
    parents, tokens, gained = chosen
    before, after = scores.shape[1], parents.shape[1]
    same = torch.arange(after, device=parents.device).clamp(max=before - 1)
    kept = functional.pad(scores, (0, after - before), value=NEVER)
    return torch.where(done, same, parents), torch.where(done, pad, tokens), torch.where(done, kept, gained)


def backtrack(parents: Sequence[Tensor]) -> list[np.ndarray]:
    """For each step the slots ``[B, K]`` in which the captions that came out last stood after that step."""
    slots = [np.broadcast_to(np.arange(parents[-1].shape[1]), parents[-1].shape)]
    for step in reversed([parent.cpu().numpy() for parent in parents[1:]]):
        slots.append(np.take_along_axis(step, slots[-1], axis=1))
    return slots[::-1]


def written(trace: Trace) -> np.ndarray:
    """``[B, K, steps]`` token ids of each final caption: up to END, then PAD."""
    slots = backtrack(trace.parents)
    tokens = (step.cpu().numpy() for step in trace.tokens)
    return np.stack([np.take_along_axis(*pair, axis=1) for pair in zip(tokens, slots, strict=True)], axis=-1)


def attended(trace: Trace) -> np.ndarray:
    """``[B, K, steps, L]`` float32: the weights with which each token of each final caption was chosen."""
    images = np.arange(len(trace.scores))[:, None]
    kept = []
    for weights, parents, slot in zip(trace.weights, trace.parents, backtrack(trace.parents), strict=True):
        before = np.take_along_axis(parents.cpu().numpy(), slot, axis=1)
        kept.append(weights.float().cpu().numpy()[images, before])
    return np.stack(kept, axis=2)


def _vocabulary(
    config: DecoderConfig, device: torch.device, value: float, others: dict[int, float]
) -> Tensor:
    row = torch.full((config.vocab_size,), value, device=device)
    for token, other in others.items():
        row[token] = other
    return row
