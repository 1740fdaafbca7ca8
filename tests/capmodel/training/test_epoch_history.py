"""What a run's history tells: the best epoch, and phases that stopped early."""

from __future__ import annotations

from pathlib import Path

from captionbeam.capmodel.training.epoch_history import (
    CROSS_ENTROPY,
    SELF_CRITICAL,
    best_epoch,
    early_stops,
    epochs_since_best,
)
from tests.builders.training import tiny_options


def options(**chosen):
    return tiny_options({"features": "f", "tokens": "t"}, Path(), **chosen)


def history(phase, *scores, first=1):
    return [
        {"epoch": number, "phase": phase, "CIDEr": score, "val_loss": 1.0}
        for number, score in enumerate(scores, first)
    ]


WORDS = history(CROSS_ENTROPY, 0.1, 0.3, 0.2, 0.3)
DRAWN = history(SELF_CRITICAL, 0.2, 0.4, 0.3, 0.35, first=5)


def test_the_best_epoch_has_the_highest_cider_then_the_lowest_loss_then_comes_first():
    assert best_epoch(WORDS)["epoch"] == 2
    assert best_epoch([*WORDS[:3], {**WORDS[3], "val_loss": 0.5}])["epoch"] == 4


def test_epochs_since_the_best():
    assert epochs_since_best([]) == 0
    assert epochs_since_best(WORDS) == 2
    assert epochs_since_best([*WORDS[:3], {**WORDS[3], "val_loss": 0.5}]) == 0
    assert epochs_since_best(DRAWN) == 2


def test_a_run_that_had_all_its_epochs_stopped_nowhere():
    assert early_stops(WORDS, options(epochs=4, patience=3)) == []
    start = {"epoch": 0, "phase": "init", "CIDEr": 0.1, "val_loss": 1.0}
    assert early_stops([start, *WORDS], options(epochs=4)) == []


def test_each_phase_that_stopped_early_says_where_why_and_whose_weights_go_on():
    chosen = options(epochs=9, self_critical_epochs=6, patience=2)
    words = {
        "phase": CROSS_ENTROPY,
        "after": 4,
        "planned": 9,
        "epoch": 4,
        "patience": 2,
        "best": 2,
        "CIDEr": 0.3,
    }
    drawn = {
        "phase": SELF_CRITICAL,
        "after": 4,
        "planned": 6,
        "epoch": 8,
        "patience": 2,
        "best": 6,
        "CIDEr": 0.4,
    }
    assert early_stops([*WORDS, *DRAWN], chosen) == [words, drawn]
