"""Command-line flags of self-critical training (captionbeam.capmodel.self_critical.options), with help texts."""

from __future__ import annotations

from typing import Any

from captionbeam.jobs.options.shared import natural, positive

SELF_CRITICAL_FLAGS: dict[str, tuple[Any, str, str]] = {
    "self_critical_epochs": (
        natural,
        "N",
        "passes over the train split in which captions that the model draws itself are rewarded by CIDEr-D, from "
        "the best weights of cross-entropy on",
    ),
    "self_critical_samples": (positive, "N", "captions drawn of each image"),
    "self_critical_baseline": (
        str,
        "NAME",
        "what a caption's reward is held against: mean, that of the image's other samples (the default), or "
        "greedy, the caption of greedy search",
    ),
    "self_critical_temperature": (
        float,
        "T",
        "captions are drawn from the model's probabilities to the power 1/T, which are also what is trained: below 1 "
        "likely words are drawn more often, and captions start closer to the greedy one",
    ),
    "self_critical_grid_dropout": (
        bool,
        "",
        "--grid-dropout in these epochs too: captions are drawn from, and learned of, an image with the same values "
        "left out",
    ),
    "self_critical_cross_entropy": (
        float,
        "WEIGHT",
        "people's captions are learned in these epochs too: their cross-entropy times this is added, with dropout and "
        "label smoothing as in the others",
    ),
    "self_critical_learning_rate": (float, "RATE", "Adam's in these epochs, at its highest"),
}
