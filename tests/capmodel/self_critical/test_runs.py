"""Runs with a self-critical phase: what they earn, stopped and gone on with, on several ranks, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captionbeam.capmodel.runtime.distributed import Distributed
from captionbeam.capmodel.training.checkpoints import Checkpoints, Position
from captionbeam.capmodel.training.optimizer import load_parameters, parameters_of
from captionbeam.capmodel.training.progress import EventWriter
from captionbeam.capmodel.training.trainer import Trainer
from captionbeam.schemas.errors import RequestError
from tests.builders.model.training import StopAfter, make_data, tiny_options, train_alone

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=24, val=3)


SECOND = {"epochs": 2, "self_critical_epochs": 2, "self_critical_learning_rate": 0.01}
RUN = {
    "precision": "fp32",
    "keep_epochs": True,
    "learning_rate": 0.02,
    "self_critical_grid_dropout": True,
    **SECOND,
}


def epochs_of(events):
    timed = ("seconds", "val_seconds", "images_per_second")
    told = [event for event in events if event["event"] == "epoch"]
    return [{name: value for name, value in one.items() if name not in timed} for one in told]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    options = tiny_options(data, tmp_path_factory.mktemp("run"), **RUN)
    trainer, events = train_alone(options)
    return options, trainer, events


def test_the_second_phase_earns_more(data, tmp_path):
    chosen = {
        "epochs": 3,
        "learning_rate": 0.03,
        "self_critical_epochs": 6,
        "self_critical_learning_rate": 0.01,
    }
    options = tiny_options(data, tmp_path, precision="fp32", **chosen)
    epochs = epochs_of(train_alone(options)[1])
    assert [epoch["phase"] for epoch in epochs] == ["cross-entropy"] * 3 + ["self-critical"] * 6
    assert "train_reward" not in epochs[0]
    rewards = [epoch["train_reward"] for epoch in epochs[3:]]
    assert sum(rewards[3:]) / 3 > 1.3 * rewards[0] > 0
    assert epochs[-1]["train_baseline"] == pytest.approx(rewards[-1])  # others' mean over all is the mean


def test_a_run_stopped_in_the_middle_of_it_ends_with_the_same_bits(data, run, tmp_path):
    options = tiny_options(data, tmp_path, **RUN)
    stops = (2, 7, 1)  # within cross-entropy, within the first self-critical epoch, again
    told = [event for times in stops for event in train_alone(options, StopAfter(times))[1]]
    position, _ = Checkpoints(options.checkpoints, {}).load()
    assert position.phase == 1
    assert set(position.measures) == {"reward", "baseline"}
    trainer, events = train_alone(options)
    assert epochs_of(told + events) == epochs_of(run[2])
    ours, theirs = parameters_of(trainer.decoder), parameters_of(run[1].decoder)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


class Rank(Distributed):
    """One of several ranks that are computed one after the other: the sum of words is told beforehand."""

    words = 1

    def all_sum(self, *values):
        loss, images, *sums = values
        return [float(self.words), 0.0] if not sums else [loss, max(images, 1), *sums]

    def from_main(self, make):
        return make()


def gradients(trainer, batch, position):
    seen = {}
    trainer.optimizer.adam.step = lambda: seen.update(
        {name: value.grad.clone() for name, value in trainer.decoder.named_parameters()}
    )
    trainer.model.train()
    trainer._step([batch], position)
    return seen


@pytest.mark.parametrize(("baseline", "weight"), [("greedy", 0.0), ("mean", 0.3)])
def test_ranks_draw_what_one_rank_with_their_images_draws(data, run, tmp_path, baseline, weight):
    """The mean of their gradients is that of the whole batch; one of the three has no image."""
    _, trainer, _ = run
    exact = {"precision": "fp32", "clip": 1e9, "dropout": 0.0, "grid_dropout": 0.0, **SECOND}
    own = {"self_critical_baseline": baseline, "self_critical_cross_entropy": weight}
    options = tiny_options(data, tmp_path, **exact, **own)
    position = Position(epoch=2, step=1, phase=1, first_epoch=2, first_step=6)
    reader = trainer.data.train
    steps = [np.array([0, 9, 14, 19, 23]), np.array([0]), np.array([9, 14, 19, 23]), np.array([], int)]
    whole, *parts = list(reader.batches(steps))

    def one(number, world, words=1):
        rank = Rank(number, world, CPU)
        object.__setattr__(rank, "words", words)
        made = Trainer(options, trainer.data, rank, lambda: False, EventWriter(options.logs, print, on=False))
        load_parameters(made.decoder, parameters_of(trainer.decoder))
        return made

    words = one(0, 1)._prepare(whole, position).words
    expected = gradients(one(0, 1, words), whole, position)
    sums = {name: torch.zeros_like(value) for name, value in expected.items()}
    for number, part in enumerate(parts):
        for name, value in gradients(one(number, 3, words), part, position).items():
            sums[name] += value / 3
    for name, value in expected.items():
        torch.testing.assert_close(sums[name], value, rtol=1e-3, atol=1e-6)


def test_a_hard_choice_of_cells_is_refused(data, tmp_path):
    with pytest.raises(
        RequestError, match="attention is 'hard'; expected another one with --self-critical-epochs"
    ):
        tiny_options(data, tmp_path, self_critical_epochs=1, attention="hard")
