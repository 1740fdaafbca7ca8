"""What a person reads of a training run."""

from __future__ import annotations

import pytest

from captionbeam.jobs.ui import terminal
from captionbeam.jobs.ui.training_view import TrainingView
from tests.builders.model.training import tiny_options

STOP = {
    "phase": "cross-entropy",
    "after": 3,
    "planned": 9,
    "epoch": 3,
    "patience": 2,
    "best": 1,
    "CIDEr": 0.8125,
}
SAVED = {"event": "saved", "epoch": 1, "val_loss": 2.0, "val_accuracy": 0.5, "CIDEr": 0.8125, "Bleu_4": 0.25}
BEGIN = {"event": "begin", "train_images": 12, "val_images": 6, "parameters": 99, "precision": "fp32", "device": "cpu",
         "workers": 1, "epoch": 0, "step": 0, "images": 0, "planned": 36, "epochs": 9}  # fmt: skip
REASON = "after 3 of 9: no better CIDEr for 2 epochs"
SENTENCE = f"cross-entropy stopped early at epoch 3, {REASON}; the best so far is epoch 1, with 0.812"
PLACES = {"features": "f", "tokens": "t"}


@pytest.fixture(autouse=True)
def speaking(monkeypatch):
    monkeypatch.setattr(terminal, "_speaking", True)


def shown(capsys, options, *events):
    with TrainingView(options) as view:
        for event in events:
            view.show(event)
    assert view.finish() == 0
    return [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(("beam", "search"), [(1, "greedy"), (3, "beam 3")])
def test_the_summary_says_how_the_scored_captions_were_written(capsys, tmp_path, beam, search):
    options = tiny_options(PLACES, tmp_path, val_beam=beam)
    lines = shown(capsys, options, BEGIN, {**SAVED, "early_stops": []})
    assert f"CIDEr, BLEU-4 ({search}) 0.812, 0.250" in lines
    assert not [line for line in lines if "stopped early" in line]


def test_early_stopping_is_said_as_it_happens_and_in_the_summary(capsys, tmp_path):
    options = tiny_options(PLACES, tmp_path, epochs=9, patience=2)
    lines = shown(capsys, options, BEGIN, {"event": "early_stop", **STOP}, {**SAVED, "early_stops": [STOP]})
    assert SENTENCE in lines
    assert f"cross-entropy stopped early {REASON}" in lines
    assert "best epoch 1 of 9: the bundle has its weights" in lines
