"""The self-critical objective: raises the probability of captions with an above-baseline reward.

For each image, K captions w are sampled from the decoder's distribution p; r(w) is a caption's reward and b its
baseline. The loss is the sum of -(r(w) - b) log p(w) over all captions, whose gradient is that of the expected
reward (Rennie et al. 2017, equation 5). log p(w) is the sum over a caption's tokens, including END; the trainer divides
by the number of all tokens, like self-critical.pytorch.

- ``greedy``: b is the reward of the greedy caption (Rennie et al. 2017, equation 8).
- ``mean``: b is the mean reward of the image's other samples (Luo 2020, equation 5).

p is that of the decoder in use, to the power 1 / temperature: without dropout, with PAD, START and UNK banned, and END
at the maximum length. Sampling and learning use the same p; dropout would make them two distributions.
``grid_dropout`` is the exception: both passes use the same dropout mask of the grid.

Shapes: B images, K samples, T steps, M chosen tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from captionbeam.capmodel.data.loader import Batch
from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.objectives.objective import TrainingBatch
from captionbeam.capmodel.self_critical.sampling import draw_captions, policy, policy_logits

Reward = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows of the token table [B], tokens [B, N, T]) -> float64 [B, N]: the worth of each caption."""


class PolicyTargets(NamedTuple):
    """A batch's extra data: the advantage r - b of each caption, float32 [B, K], and the policy's ``mask``."""

    advantages: Tensor
    mask: int | None


@dataclass(frozen=True)
class SelfCritical:
    """The self-critical objective: ``samples`` captions per image, and a ``baseline``: ``mean`` or ``greedy``."""

    reward: Reward
    samples: int
    baseline: str
    temperature: float = 1.0
    grid_dropout: bool = False

    def prepare(self, decoder: Decoder, batch: Batch, device: torch.device, seed: int) -> TrainingBatch:
        """Samples captions of the batch's images; ``extra`` is ``PolicyTargets``."""
        features = batch.features.to(device)
        if not len(batch.rows):
            return _blank(decoder, features)
        names = [str(row) for row in batch.rows]
        mask = int(torch.randint(2**62, ())) if self.grid_dropout else None
        with policy(decoder, mask):
            greedy = self.baseline == "greedy"
            tokens = draw_captions(decoder, features, names, self.samples, seed, greedy, self.temperature)
        rewards = self.reward(batch.rows, tokens)
        drawn, bases = rewards[:, : self.samples], self._bases(rewards)
        advantages = torch.from_numpy(drawn - bases).float().to(device)
        targets = torch.from_numpy(tokens[:, : self.samples]).to(device)
        return TrainingBatch(
            features,
            functional.pad(targets[..., :-1], (1, 0), value=decoder.config.start),
            targets,
            int((targets != decoder.config.pad).sum()),
            extra=PolicyTargets(advantages, mask),
            measures={"reward": drawn.mean(1).sum(), "baseline": bases.mean(1).sum()},
        )

    def _bases(self, rewards: np.ndarray) -> np.ndarray:
        """Returns the baseline of each sample: [B, K], or [B, 1]."""
        if self.baseline == "greedy":
            return rewards[:, self.samples :]
        return (rewards.sum(1, keepdims=True) - rewards) / (self.samples - 1)

    def loss(self, decoder: Decoder, prepared: TrainingBatch) -> Tensor:
        """Returns the sum over the chosen tokens of -(r - b) log p, with r - b of the token's caption."""
        chosen = prepared.targets != decoder.config.pad
        advantages, mask = prepared.extra
        with policy(decoder, mask):
            logits = decoder(prepared.features, prepared.inputs, prepared.targets)
        of_tokens = advantages.unsqueeze(-1).expand_as(chosen)[chosen]
        minus_log_p = functional.cross_entropy(
            policy_logits(logits, decoder, self.temperature), prepared.targets[chosen], reduction="none"
        )
        return (of_tokens * minus_log_p).sum()


def _blank(decoder: Decoder, features: Tensor) -> TrainingBatch:
    """Returns the batch of a rank without images in this step."""
    inputs, targets = (
        torch.full((1, 1, 1), token, device=features.device)
        for token in (decoder.config.start, decoder.config.end)
    )
    advantages = torch.zeros(1, 1, device=features.device)
    return TrainingBatch(
        features,
        inputs,
        targets,
        0,
        extra=PolicyTargets(advantages, None),
        measures={"reward": 0.0, "baseline": 0.0},
    )
