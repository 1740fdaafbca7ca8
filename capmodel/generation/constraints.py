"""Constraints on the next word, for every search method.

Shapes: B images, n captions per image, V vocabulary, t tokens so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captionbeam.capmodel.decoders import DecoderConfig

NEVER = float("-inf")


class TokenConstraints:
    """Bans PAD, START and (by default) UNK, and optionally repeated n-grams; END in the last step, PAD after END."""

    def __init__(
        self,
        config: DecoderConfig,
        allow_unk: bool,
        device: torch.device,
        no_repeat: int = 0,
        prefix: int = 0,
    ) -> None:
        """``no_repeat``: the n-gram length, 0 for none; ``prefix``: the number of given tokens."""
        self.pad, self.end, self.no_repeat, self.prefix = config.pad, config.end, no_repeat, prefix
        banned = [config.pad, config.start, *([] if allow_unk else [config.unk])]
        self.banned = torch.tensor(banned, device=device)
        self.only_end = _only(config.end, config, device)
        self.only_pad = _only(config.pad, config, device)

    def logprobs(self, logits: Tensor, finished: Tensor, last: bool, history: Tensor | None = None) -> Tensor:
        """Returns ``logits [B, n, V]`` as float32 log-probabilities, -inf for tokens that may not follow.

        They are the model's own, over its whole vocabulary: banning a word does not raise the others. ``history``:
        the tokens of each caption, ``[B, n, t]``, needed for n-grams only.
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
    """Returns the tokens that would repeat an n-gram of ``size`` tokens: ``[B, n, t - size + 1]``.

    One entry per n-gram of ``history``: its last token if its other tokens are the last ones of ``history``, else
    ``otherwise``. A running caption has no END, so END is never returned.
    """
    ngrams = history.unfold(-1, size, 1)
    begun = history[..., history.shape[-1] - size + 1 :].unsqueeze(-2)
    return torch.where((ngrams[..., :-1] == begun).all(-1), ngrams[..., -1], otherwise)


def _only(token: int, config: DecoderConfig, device: torch.device) -> Tensor:
    row = torch.full((config.vocab_size,), NEVER, device=device)
    row[token] = 0.0
    return row
