"""The training loop: what it minimises, that it learns, and that no interruption changes its result."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.data.loader import Batch
from captionbeam.capmodel.decoders import DecoderConfig, make_decoder
from captionbeam.capmodel.objectives.losses import masked_cross_entropy
from captionbeam.capmodel.runtime.distributed import Distributed
from captionbeam.capmodel.training.checkpoints import Checkpoints, Position
from captionbeam.capmodel.training.epoch_history import best_epoch
from captionbeam.capmodel.training.optimizer import ModelOptimizer, learning_rate, load_parameters
from captionbeam.capmodel.training.progress import EventWriter
from captionbeam.capmodel.training.trainer import Trainer
from captionbeam.schemas.errors import RequestError, SystemicError
from tests.builders.model.training import StopAfter, make_data, tiny_options, train_alone


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    trainer, events = train_alone(tiny_options(data, tmp_path_factory.mktemp("unbroken"), precision="fp32"))
    return parameters(trainer), [event for event in events if event["event"] == "epoch"]


def parameters(trainer):
    return {name: value.detach().clone() for name, value in trainer.decoder.named_parameters()}


def same(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in {*ours, *theirs})


def without_times(epochs):
    timed = ("seconds", "val_seconds", "images_per_second")
    return [{name: value for name, value in epoch.items() if name not in timed} for epoch in epochs]


@pytest.mark.parametrize("stops", [[7], [0, 1, 2, 3, 4]], ids=str)
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(data, unbroken, tmp_path, stops):
    options = tiny_options(data, tmp_path, precision="fp32")
    told = []
    for times in stops:
        _, events = train_alone(options, StopAfter(times))
        assert events[-1]["event"] == "stopped"
        told += events
    trainer, events = train_alone(options)
    assert same(parameters(trainer), unbroken[0])
    epochs = [event for event in told + events if event["event"] == "epoch"]
    assert without_times(epochs) == without_times(unbroken[1])


def test_a_run_goes_on_from_a_checkpoint_in_the_middle_of_an_epoch(data, unbroken, tmp_path):
    """As after kill -9: no word of stopping, just the last checkpoint, five steps old."""
    options = tiny_options(data, tmp_path, precision="fp32")
    train_alone(options, StopAfter(10))
    position, _ = Checkpoints(options.checkpoints, {}).load()
    assert (position.epoch, position.step) == (1, 2)
    later = replace(options, checkpoint_minutes=1000.0)
    with pytest.raises(KeyboardInterrupt):
        train_alone(later, Interrupt(5))
    assert Checkpoints(options.checkpoints, {}).load()[0] == position
    assert same(parameters(train_alone(options)[0]), unbroken[0])


class Interrupt(StopAfter):
    def __call__(self):
        if super().__call__():
            raise KeyboardInterrupt
        return False


def test_a_checkpoint_is_written_as_often_as_asked(data, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, at, tensors: saved.append((at.epoch, at.step)))
    train_alone(tiny_options(data, tmp_path, epochs=2, checkpoint_minutes=0.0))
    steps = [(epoch, step) for epoch in (0, 1) for step in range(1, 8)]
    assert saved == sorted([*steps, (1, 0), (2, 0)])


def test_the_best_epoch_by_cider_is_what_is_left_and_each_is_kept_on_request(data, tmp_path):
    options = tiny_options(data, tmp_path, epochs=4, keep_epochs=True, learning_rate=0.1)
    trainer, events = train_alone(options)
    best = best_epoch([event for event in events if event["event"] == "epoch"])["epoch"]
    checkpoints = Checkpoints(options.checkpoints, {})
    kept = checkpoints._read(f"epoch-{best:04d}.safetensors")
    assert {name: value.tolist() for name, value in kept.items()} == {
        name: value.tolist() for name, value in parameters(trainer).items()
    }


def test_starting_over_forgets_the_checkpoints(data, unbroken, tmp_path):
    options = tiny_options(data, tmp_path, precision="fp32")
    train_alone(replace(options, seed=3), StopAfter(3))
    with pytest.raises(RequestError, match="a run with seed 3, not 0"):
        train_alone(options)
    trainer, events = train_alone(replace(options, restart=True))
    assert (events[0]["epoch"], events[0]["step"]) == (0, 0)
    assert same(parameters(trainer), unbroken[0])


def test_a_loss_that_is_no_number_stops_the_job(data, tmp_path):
    with pytest.raises(SystemicError, match=r"the loss is nan at step \d of epoch 1; expected a number"):
        train_alone(tiny_options(data, tmp_path, learning_rate=1e30, clip=1e30))


class Rank(Distributed):
    """One of several ranks that are computed one after the other: the sum of words is told beforehand."""

    def all_sum(self, *values):
        return [float(self.words), 0.0] if len(values) == 2 else list(values)

    def from_main(self, make):
        return make()


def gradients(trainer, batch):
    """What one backward pass of this rank gives."""
    seen = {}
    trainer.optimizer.adam.step = lambda: seen.update(
        {name: value.grad.clone() for name, value in trainer.decoder.named_parameters()}
    )
    trainer.model.train()
    trainer._step([batch], Position())
    return seen


def test_the_mean_over_ranks_is_the_gradient_of_the_whole_batch(data, tmp_path):
    """Three ranks with different numbers of words, one of them without images."""
    options = tiny_options(data, tmp_path, dropout=0.0, grid_dropout=0.0, precision="fp32", clip=1e9)
    trainer, _ = train_alone(options, StopAfter(0))
    whole = next(trainer.data.train.batches([np.array([0, 9, 14, 19, 23])]))
    expected = gradient_of_mean(trainer.decoder, whole)
    parts = list(trainer.data.train.batches([np.array([0]), np.array([9, 14, 19, 23]), np.array([], int)]))
    words = int((whole.tokens[..., 1:] != 0).sum())
    sums = {name: torch.zeros_like(value) for name, value in expected.items()}
    for number, part in enumerate(parts):
        rank = Rank(number, len(parts), torch.device("cpu"))
        object.__setattr__(rank, "words", words)
        one = Trainer(options, trainer.data, rank, lambda: False, EventWriter(options.logs, print, on=False))
        load_parameters(
            one.decoder, {name: p.detach().numpy() for name, p in trainer.decoder.named_parameters()}
        )
        for name, value in gradients(one, part).items():
            sums[name] += value / len(parts)
    for name, value in expected.items():
        torch.testing.assert_close(sums[name], value, rtol=1e-4, atol=1e-7)


def gradient_of_mean(decoder, batch: Batch):
    decoder.zero_grad()
    targets = batch.tokens[..., 1:]
    logits = decoder(batch.features, batch.tokens[..., :-1], targets)
    total, count = masked_cross_entropy(logits, targets[targets != 0], 0)
    (total / count).backward()
    return {name: value.grad.clone() for name, value in decoder.named_parameters()}


@given(steps=st.integers(1, 500), warmup=st.floats(0, 1))
def test_the_learning_rate_rises_to_its_peak_then_falls_towards_nothing(steps, warmup):
    rates = [learning_rate(step, steps, 2.0, warmup) for step in range(steps)]
    peak = rates.index(max(rates))
    assert all(0 < rate <= 2.0 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) == 2.0


def test_the_optimizers_state_comes_back_whole():
    torch.manual_seed(0)
    config = DecoderConfig(9, (2, 2, 3), embed_dim=4, hidden_dim=4, attention_dim=4, feature_dim=4)
    ours, theirs = make_decoder(config), make_decoder(config)
    options = SimpleNamespace(clip=5.0, learning_rate=0.01, weight_decay=0.0, ema=0.9)
    first, second = ModelOptimizer(ours, options), ModelOptimizer(theirs, options)
    tokens = torch.tensor([[[2, 5, 6, 3]]])

    def step(optimizer, taken):
        optimizer.model.eval()(torch.ones(1, 4, 3), tokens).square().sum().backward()
        optimizer.step(0.01, taken)

    step(first, 0)
    second.load({name: value.copy() for name, value in first.state().items()})
    step(first, 1)
    step(second, 1)
    for one in (first, second):
        one.average.swap()
        step(one, 2)
    assert same(dict(ours.named_parameters()), dict(theirs.named_parameters()))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"epochs": 0}, "epochs is 0; expected 1 or more (0 takes --init and --self-critical-epochs)"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan; expected a number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(data, tmp_path, wrong, sentence):
    with pytest.raises(RequestError) as caught:
        tiny_options(data, tmp_path, **wrong)
    assert str(caught.value) == sentence


def test_what_only_decides_how_fast_is_not_a_runs_identity(data, tmp_path):
    options = tiny_options(data, tmp_path)
    faster = replace(options, threads=2, checkpoint_minutes=1.0, keep_epochs=True, logs="elsewhere")
    assert faster.identity() == options.identity()
    assert "seed" in options.identity()
