"""Writing captions word by word: the loop that greedy search, beam search and sampling share.

Shapes: B images, n captions an image before a step and K after it, V vocabulary, L grid cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from capmodel.decoder import AttentiveDecoder, DecoderConfig, DecoderState

Choose = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]
"""(log-probabilities [B, n, V], scores [B, n], step) -> parents (below n), tokens, scores: [B, K]."""

NEVER = float("-inf")


class Rules:
    """What may be written: no PAD, START or (unless allowed) UNK; END in the last step; PAD after END."""

    def __init__(self, config: DecoderConfig, allow_unk: bool, device: torch.device) -> None:
        self.pad, self.end = config.pad, config.end
        banned = [config.pad, config.start, *([] if allow_unk else [config.unk])]
        self.free = _vocabulary(config, device, 0.0, dict.fromkeys(banned, NEVER))
        self.only_end = _vocabulary(config, device, NEVER, {config.end: 0.0})
        self.only_pad = _vocabulary(config, device, NEVER, {config.pad: 0.0})

    def logprobs(self, logits: Tensor, finished: Tensor, last: bool) -> Tensor:
        """``logits [B, n, V]`` as float32 log-probabilities of what may follow, -inf for what may not.

        They are the model's own, over its whole vocabulary: banning a word makes no other one likelier.
        """
        own = torch.log_softmax(logits.float(), dim=-1) + (self.only_end if last else self.free)
        return torch.where(finished.unsqueeze(-1), self.only_pad, own)


@dataclass
class Trace:
    """All that was written: one entry a step, and the final scores ``[B, K]``."""

    parents: list[Tensor]  # [B, K]
    tokens: list[Tensor]  # [B, K]
    weights: list[Tensor]  # [B, n, L], of the caption that was continued; empty where not kept
    scores: Tensor


def write(
    decoder: AttentiveDecoder,
    state: DecoderState,
    first: Tensor,
    rules: Rules,
    choose: Choose,
    steps: int,
    keep_attention: bool = False,
) -> Trace:
    """Continue one caption of each image, from the words ``first`` ``[B, 1]``, for at most ``steps`` tokens.

    The shape of a step never depends on what was written, so that an image's captions do not depend on its
    batch-mates: one whose captions are all finished is carried along, unchanged, until the last image is.
    """
    tokens, scores = first, torch.zeros(first.shape, device=first.device)
    finished = torch.zeros_like(first, dtype=torch.bool)
    trace = Trace([], [], [], scores)
    for step in range(steps):
        logits, state, weights = decoder.step(state, tokens)
        logprobs = rules.logprobs(logits, finished, last=step == steps - 1)
        parents, tokens, scores = choose(logprobs, scores, step)
        state = state.select(parents)
        finished = finished.gather(1, parents) | (tokens == rules.end) | (scores == NEVER)
        trace.parents.append(parents)
        trace.tokens.append(tokens)
        if keep_attention:
            trace.weights.append(weights)
        if bool(finished.all()):
            break
    trace.scores = scores
    return trace


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
