"""What may be written next, whichever way words are chosen.

Shapes: B images, n captions an image, V vocabulary, t tokens written so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captionbeam.capmodel.decoders import DecoderConfig

NEVER = float("-inf")


class Rules:
    """No PAD, START or (unless allowed) UNK; no n-gram twice where asked; END in the last step; PAD after END."""

    def __init__(
        self,
        config: DecoderConfig,
        allow_unk: bool,
        device: torch.device,
        no_repeat: int = 0,
        prefix: int = 0,
    ) -> None:
        """``no_repeat``: the length of the n-grams, 0 for none; ``prefix``: tokens that are given, not chosen."""
        self.pad, self.end, self.no_repeat, self.prefix = config.pad, config.end, no_repeat, prefix
        banned = [config.pad, config.start, *([] if allow_unk else [config.unk])]
        self.banned = torch.tensor(banned, device=device)
        self.only_end = _vocabulary(config, device, NEVER, {config.end: 0.0})
        self.only_pad = _vocabulary(config, device, NEVER, {config.pad: 0.0})

    def logprobs(self, logits: Tensor, finished: Tensor, last: bool, history: Tensor | None = None) -> Tensor:
        """``logits [B, n, V]`` as float32 log-probabilities of what may follow, -inf for what may not.

        They are the model's own, over its whole vocabulary: banning a word makes no other one likelier.
        ``history`` ``[B, n, t]`` are the tokens that each caption has, where n-grams are looked at.
        """
        own = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        own[..., self.banned] = NEVER
        if history is not None and history.shape[-1] >= max(self.prefix, self.no_repeat):
            own.scatter_(-1, repeating(history, self.no_repeat, otherwise=self.pad), NEVER)
        if last:
            own += self.only_end
        own[finished] = self.only_pad
        return own


def repeating(history: Tensor, size: int, otherwise: int) -> Tensor:
    """``[B, n, t - size + 1]``: the tokens after which the last ``size`` of ``history`` would be there twice.

    One entry for each n-gram that is there; ``otherwise`` where it is not the one that has been begun again.
    A running caption has no END yet, so that END is never among them.
    """
    ngrams = history.unfold(-1, size, 1)
    begun = history[..., history.shape[-1] - size + 1 :].unsqueeze(-2)
    return torch.where((ngrams[..., :-1] == begun).all(-1), ngrams[..., -1], otherwise)


def _vocabulary(
    config: DecoderConfig, device: torch.device, value: float, others: dict[int, float]
) -> Tensor:
    row = torch.full((config.vocab_size,), value, device=device)
    for token, other in others.items():
        row[token] = other
    return row
