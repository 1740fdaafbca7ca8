"""Phases of a run: when one is over, and what the next one starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from captionbeam.capmodel.objectives.objective import CrossEntropy
from captionbeam.capmodel.training import trainer as training
from captionbeam.capmodel.training.checkpoints import Position
from captionbeam.capmodel.training.epoch_history import (
    CROSS_ENTROPY,
    SELF_CRITICAL,
    best_epoch,
    early_stops,
)
from captionbeam.capmodel.training.phases import Phase
from tests.builders.model.training import StopAfter, make_data, tiny_options, train_alone


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=16, val=4)


def parameters(trainer):
    return {name: value.detach().clone() for name, value in trainer.decoder.named_parameters()}


def same(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in {*ours, *theirs})


class Backwards:
    """An objective of a second phase: captions said from their end."""

    def prepare(self, decoder, batch, device, seed):
        return CrossEntropy().prepare(decoder, batch._replace(tokens=batch.tokens.flip(-1)), device, seed)

    def loss(self, decoder, prepared):
        return CrossEntropy().loss(decoder, prepared)


@pytest.mark.parametrize("stops", [[6, 1]], ids=str)
def test_a_second_phase_starts_from_the_best_weights_with_its_own_rate(data, tmp_path, monkeypatch, stops):
    """Two steps an epoch, and a question whether to stop at each and at the one batch of validation."""
    phases = (Phase("first", CrossEntropy(), 2, 0.01, 0.0), Phase("second", Backwards(), 1, 0.001, 0.0))
    monkeypatch.setattr(training, "phases_of", lambda options, data: phases)
    unbroken, events = train_alone(tiny_options(data, tmp_path / "unbroken", precision="fp32"))
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [(epoch["epoch"], epoch["phase"]) for epoch in epochs] == [
        (1, "first"),
        (2, "first"),
        (3, "second"),
    ]
    options = tiny_options(data, tmp_path / "broken", precision="fp32")
    for times in stops:
        train_alone(options, StopAfter(times))
    assert same(parameters(train_alone(options)[0]), parameters(unbroken))


def at(*scores, first_epoch=0, losses=()):
    history = tuple(
        {"epoch": number, "CIDEr": score, "val_loss": loss}
        for number, (score, loss) in enumerate(zip(scores, losses or [1.0] * len(scores), strict=True), 1)
    )
    return Position(epoch=len(scores), history=history, first_epoch=first_epoch)


def test_a_phase_is_over_after_its_epochs_or_its_patience():
    patient = Phase("p", CrossEntropy(), 6, 0.1, 0.0, patience=2)
    assert not patient.is_over(at())
    assert not patient.is_over(at(0.1, 0.3, 0.2))
    assert patient.is_over(at(0.1, 0.3, 0.2, 0.3))
    assert not patient.is_over(at(0.1, 0.3, 0.2, 0.4))
    assert not patient.is_over(at(0.9, 0.1, 0.2, first_epoch=1))
    assert patient.is_over(at(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    assert not Phase("p", CrossEntropy(), 6, 0.1, 0.0).is_over(at(0.5, 0.4, 0.3, 0.2, 0.1))


def test_patience_and_the_best_epoch_agree_where_cider_ties():
    """As in the first epochs, whose captions all score 0 while the loss falls."""
    patient = Phase("p", CrossEntropy(), 6, 0.1, 0.0, patience=1)
    falling = at(0.0, 0.0, losses=(3.0, 2.0))
    assert (best_epoch(falling.history)["epoch"], patient.is_over(falling)) == (2, False)
    rising = at(0.0, 0.0, losses=(2.0, 3.0))
    assert (best_epoch(rising.history)["epoch"], patient.is_over(rising)) == (1, True)
    assert patient.is_over(at(0.1, 0.0, losses=(3.0, 2.0)))


def test_a_run_whose_captions_get_no_better_ends_by_its_patience(data, tmp_path):
    _, events = train_alone(tiny_options(data, tmp_path, epochs=9, patience=2, learning_rate=1e-9))
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [1, 2, 3]
    stop = {"phase": "cross-entropy", "after": 3, "planned": 9, "epoch": 3, "patience": 2, "best": 1}
    stop["CIDEr"] = epochs[0]["CIDEr"]
    assert [event for event in events if event["event"] == "early_stop"] == [{"event": "early_stop", **stop}]


def options(**chosen):
    return tiny_options({"features": "f", "tokens": "t"}, Path(), **chosen)


def history(phase, *scores, first=1):
    return [
        {"epoch": number, "phase": phase, "CIDEr": score, "val_loss": 1.0}
        for number, score in enumerate(scores, first)
    ]


WORDS = history(CROSS_ENTROPY, 0.1, 0.3, 0.2, 0.3)
DRAWN = history(SELF_CRITICAL, 0.2, 0.4, 0.3, 0.35, first=5)


def test_a_run_that_had_all_its_epochs_stopped_nowhere():
    assert early_stops(WORDS, options(epochs=4, patience=3)) == []
    start = {"epoch": 0, "phase": "init", "CIDEr": 0.1, "val_loss": 1.0}
    assert early_stops([start, *WORDS], options(epochs=4)) == []


def test_each_phase_that_stopped_early_says_where_why_and_whose_weights_go_on():
    chosen = options(epochs=9, self_critical_epochs=6, patience=2)
    both = {"after": 4, "patience": 2}
    words = {"phase": CROSS_ENTROPY, "planned": 9, "epoch": 4, "best": 2, "CIDEr": 0.3, **both}
    drawn = {"phase": SELF_CRITICAL, "planned": 6, "epoch": 8, "best": 6, "CIDEr": 0.4, **both}
    assert early_stops([*WORDS, *DRAWN], chosen) == [words, drawn]
