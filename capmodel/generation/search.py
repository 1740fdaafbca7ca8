"""The decoding loop that greedy search, beam search and sampling share.

Shapes: B images, n captions per image before a step and K after it, V vocabulary, L grid cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from captionbeam.capmodel.decoders.base import Decoder, State
from captionbeam.capmodel.generation.constraints import NEVER, TokenConstraints
from captionbeam.capmodel.generation.ranking import Ranking

NO_PENALTY = Ranking()
Selection = tuple[Tensor, Tensor, Tensor]
"""Parents (below n), tokens and scores of the continued captions, ``[B, K]`` each."""
SelectTokens = Callable[[Tensor, Tensor, Tensor, int], Selection]
"""(log-probabilities [B, n, V], scores [B, n], lengths [B, n], step) -> Selection.

The lengths are those that captions have once they have gone on, in tokens without START; finished ones do not go on.
"""


@dataclass
class SearchTrace:
    """The search's history, one entry per step, and the final captions' scores and ranks ``[B, K]``."""

    parents: list[Tensor]  # [B, K]
    tokens: list[Tensor]  # [B, K]
    weights: list[Tensor]  # [B, n, L], of the caption that was continued; empty if not kept
    scores: Tensor
    ranks: Tensor


def run_search(
    decoder: Decoder,
    state: State,
    first: Tensor,
    rules: TokenConstraints,
    choose: SelectTokens,
    steps: int,
    ranking: Ranking = NO_PENALTY,
    keep_attention: bool = False,
) -> SearchTrace:
    """Continues one caption per image, from the words ``first`` ``[B, 1]``, for at most ``steps`` tokens.

    An image is done when its best captions, by ``ranking``, are finished and no running one can pass them. Step shapes
    do not depend on the captions, so an image's captions do not depend on its batch: images that are done are kept
    unchanged until all are done.
    """
    tokens, scores = first, torch.zeros(first.shape, device=first.device)
    finished, lengths = torch.zeros_like(first, dtype=torch.bool), torch.zeros_like(first)
    history = first[..., :0] if rules.no_repeat else None
    done = finished
    trace = SearchTrace([], [], [], scores, scores)
    for step in range(steps):
        logits, state, weights = decoder.step(state, tokens)
        logprobs = rules.logprobs(logits, finished, step == steps - 1, history)
        lengths = lengths + ~finished
        chosen = choose(logprobs, scores, lengths, step)
        parents, tokens, scores = _unless_done(done, chosen, scores, rules.pad, ranking.groups)
        state, lengths = state.select(parents), lengths.gather(1, parents)
        history = None if history is None else _extended(history, parents, tokens)
        finished = finished.gather(1, parents) | (tokens == rules.end) | (scores == NEVER)
        done = ranking.done(scores, lengths, finished, steps)
        trace.parents.append(parents)
        trace.tokens.append(tokens)
        if keep_attention and weights is not None:
            trace.weights.append(weights)
        if bool(done.all()):
            break
    trace.scores, trace.ranks = scores, ranking.ranks(scores, lengths)
    return trace


def _extended(history: Tensor, parents: Tensor, tokens: Tensor) -> Tensor:
    """Returns ``history`` ``[B, n, t]`` of the continued captions with their new tokens: ``[B, K, t + 1]``."""
    index = parents.unsqueeze(-1).expand(-1, -1, history.shape[-1])
    return torch.cat([history.gather(1, index), tokens.unsqueeze(-1)], dim=-1)


def _unless_done(done: Tensor, chosen: Selection, scores: Tensor, pad: int, groups: int) -> Selection:
    """Returns ``chosen``, but for images that are ``done`` ``[B, 1]`` their current captions, continued with PAD.

    A group that grows from ``before`` to ``after`` captions keeps its captions first; the others are empty.
    """
    parents, tokens, gained = chosen
    before, after = (max(part.shape[1] // groups, 1) for part in (scores, parents))
    place = torch.arange(parents.shape[1], device=parents.device)
    same = (place // after * before + (place % after).clamp(max=before - 1)).clamp(max=scores.shape[1] - 1)
    kept = torch.where(place % after < before, scores[:, same], NEVER)
    return torch.where(done, same, parents), torch.where(done, pad, tokens), torch.where(done, kept, gained)


def backtrack(parents: Sequence[Tensor]) -> list[np.ndarray]:
    """Returns for each step the slots ``[B, K]`` that the final captions had after that step."""
    slots = [np.broadcast_to(np.arange(parents[-1].shape[1]), parents[-1].shape)]
    for step in reversed([parent.cpu().numpy() for parent in parents[1:]]):
        slots.append(np.take_along_axis(step, slots[-1], axis=1))
    return slots[::-1]


def token_ids(trace: SearchTrace) -> np.ndarray:
    """Returns the token ids of each final caption, ``[B, K, steps]``: up to END, then PAD."""
    slots = backtrack(trace.parents)
    tokens = (step.cpu().numpy() for step in trace.tokens)
    return np.stack([np.take_along_axis(*pair, axis=1) for pair in zip(tokens, slots, strict=True)], axis=-1)


def attention_weights(trace: SearchTrace) -> np.ndarray:
    """Returns the attention weights of each token of each final caption, float32 ``[B, K, steps, L]``."""
    images = np.arange(len(trace.scores))[:, None]
    kept = []
    for weights, parents, slot in zip(trace.weights, trace.parents, backtrack(trace.parents), strict=True):
        before = np.take_along_axis(parents.cpu().numpy(), slot, axis=1)
        kept.append(weights.float().cpu().numpy()[images, before])
    return np.stack(kept, axis=2)
