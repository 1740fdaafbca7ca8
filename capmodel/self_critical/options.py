"""Options of self-critical training. Does not import torch, so that a launcher validates a request quickly."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from captionbeam.capmodel.generation.options import LEAST_TEMPERATURE, MOST_ROWS
from captionbeam.schemas.errors import expect

BASELINES = ("mean", "greedy")


@dataclass(frozen=True, kw_only=True)
class SelfCriticalOptions:
    """Options of self-critical training. Raises RequestError for an invalid value.

    self_critical_epochs:        passes over the training split after those of cross-entropy; 0: none.
    self_critical_samples:       captions sampled per image at each step.
    self_critical_baseline:      the baseline of a caption's reward: the ``mean`` of the image's other samples
                                 (Luo 2020), or the caption of ``greedy`` search (Rennie et al. 2017).
    self_critical_temperature:   the policy is p^(1 / this): below 1 it starts near the decoder's most likely captions.
    self_critical_grid_dropout:  applies the decoder's grid dropout to the policy, with the same mask of an image for
                                 sampling and learning in one step.
    self_critical_cross_entropy: weight of an added cross-entropy of human captions, with its dropout and label
                                 smoothing: both losses are summed over their words and added (Paulus et al. 2018,
                                 equation 16). 0: none.
    self_critical_learning_rate: Adam's maximum in those epochs.
    """

    self_critical_epochs: int = 0
    self_critical_samples: int = 5
    self_critical_baseline: str = "mean"
    self_critical_temperature: float = 1.0
    self_critical_grid_dropout: bool = False
    self_critical_cross_entropy: float = 0.0
    self_critical_learning_rate: float = 5e-5

    def check_self_critical(self) -> None:
        """Raises RequestError if these options are invalid."""
        epochs, samples = self.self_critical_epochs, self.self_critical_samples
        rate, baseline = self.self_critical_learning_rate, self.self_critical_baseline
        _expect(epochs >= 0, "epochs", epochs, "0 (none) or more")
        _expect(baseline in BASELINES, "baseline", baseline, f"one of {', '.join(BASELINES)}")
        least = 2 if baseline == "mean" else 1
        others = " (their mean needs others)" if least == 2 else ""
        bounds = f"from {least} to {MOST_ROWS:,}{others}"
        _expect(least <= samples <= MOST_ROWS, "samples", samples, bounds)
        _expect(0 < rate < inf, "learning_rate", rate, "a number above 0")
        weight = self.self_critical_cross_entropy
        _expect(0 <= weight < inf, "cross_entropy", weight, "0 (none) or more")
        temperature = self.self_critical_temperature
        warm = LEAST_TEMPERATURE <= temperature < inf
        _expect(warm, "temperature", temperature, f"a number above 0, {LEAST_TEMPERATURE} or more")


def _expect(holds: bool, name: str, value: object, expected: str) -> None:
    expect(holds, f"self-critical-{name}", value, expected)
