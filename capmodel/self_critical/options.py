"""Options of self-critical training. Does not import torch, so that a launcher validates a request quickly."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.capmodel.generation.options import LEAST_TEMPERATURE, MOST_ROWS
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import NATURAL, number, one_of, option


@dataclass(frozen=True, kw_only=True)
class SelfCriticalOptions:
    """Options of self-critical training (Rennie et al. 2017): rewards for captions that the model samples itself."""

    GROUP = "self-critical training"

    self_critical_epochs: int = option(
        0,
        "passes over the training split that reward sampled captions by CIDEr-D, after those of cross-entropy and from "
        "their best weights on",
        NATURAL,
        common=True,
    )
    self_critical_samples: int = option(
        5, "captions sampled for each image at each step", number(1, MOST_ROWS, whole=True)
    )
    self_critical_baseline: str = option(
        "mean",
        "baseline of a caption's reward: mean, of the image's other samples (Luo 2020), or greedy, the caption of "
        "greedy search (Rennie et al. 2017)",
        one_of("mean", "greedy"),
    )
    self_critical_temperature: float = option(
        1.0,
        "the policy that is sampled and trained is p^(1/T): below 1 likely words are sampled more often",
        number(LEAST_TEMPERATURE, unit="T"),
    )
    self_critical_grid_dropout: bool = option(
        False,
        "apply --grid-dropout to the policy, with one mask of an image for sampling and learning in a step",
    )
    self_critical_cross_entropy: float = option(
        0.0,
        "weight of an added cross-entropy of human captions, with its dropout and label smoothing (Paulus et al. 2018, "
        "equation 16)",
        number(0, unit="WEIGHT"),
    )
    self_critical_learning_rate: float = option(
        5e-5, "Adam's maximum in these epochs", number(0, above=True, unit="RATE"), common=True
    )

    def check_self_critical(self) -> None:
        """Raises RequestError if the samples are too few for their baseline."""
        if self.self_critical_baseline == "mean" and self.self_critical_samples < 2:
            raise RequestError(
                f"--self-critical-samples is {self.self_critical_samples}; expected 2 or more, as the baseline mean "
                "needs others"
            )
