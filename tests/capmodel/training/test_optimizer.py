"""One step down the gradients: decay, averaged weights, and what a checkpoint keeps of them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.generation.captions import DecodeOptions, generate
from captionbeam.capmodel.training.checkpoints import Checkpoints
from captionbeam.capmodel.training.optimizer import ModelOptimizer, learning_rate, make_optimizer
from captionbeam.capmodel.training.worker import save_bundle
from tests.builders.model.training import make_data, tiny_options, train_alone


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=16, val=4)


def test_weights_decay_in_tables_and_matrices_and_nowhere_else():
    layer = torch.nn.Linear(3, 2)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    optimizer = make_optimizer(layer, 0.1, weight_decay=0.5)
    layer(torch.zeros(1, 3)).mul(0).sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias.detach(), before["bias"])


@pytest.mark.parametrize(("clip", "expected"), [(1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])])
def test_gradients_are_scaled_down_to_the_maximum_norm(data, tmp_path, monkeypatch, clip, expected):
    layer = torch.nn.Linear(2, 1, bias=False)
    optimizer, seen = ModelOptimizer(layer, tiny_options(data, tmp_path, clip=clip)), []
    monkeypatch.setattr(optimizer.adam, "step", lambda: seen.extend(layer.weight.grad.flatten().tolist()))
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer.step(0.1, 0)
    assert seen == pytest.approx(expected, rel=1e-5)


def test_the_averaged_weights_are_what_is_validated_and_saved(data, tmp_path, monkeypatch):
    seen = []
    step = ModelOptimizer.step

    def watched(self, rate, taken):
        step(self, rate, taken)
        seen.append({name: value.detach().clone() for name, value in self.model.named_parameters()})

    monkeypatch.setattr(ModelOptimizer, "step", watched)
    options = tiny_options(data, tmp_path, epochs=2, ema=0.9, keep_epochs=True, precision="fp32")
    trainer, events = train_alone(options)
    assert len(seen) == 4
    mean = seen[0]  # nothing is known before the first step but the random start, of which a tenth stays
    start = {name: value.detach().clone() for name, value in fresh(options, data, tmp_path).items()}
    mean = {name: 0.1 * start[name] + 0.9 * mean[name] for name in mean}
    for taken in (1, 2, 3):
        kept = (1 + taken) / (10 + taken)
        mean = {name: kept * mean[name] + (1 - kept) * seen[taken][name] for name in mean}
    saved = Checkpoints(options.checkpoints, {})._read("epoch-0002.safetensors")
    for name, value in mean.items():
        np.testing.assert_allclose(saved[name], value.numpy(), rtol=1e-5, atol=1e-6)
    validated = [event["val_loss"] for event in events if event["event"] == "epoch"][1]
    last = {name: torch.from_numpy(value.copy()) for name, value in saved.items()}
    trainer.decoder.load_state_dict(last, strict=False)
    assert trainer.validation.scores(trainer.decoder, lambda: False)["val_loss"] == pytest.approx(validated)


def fresh(options, data, tmp_path):
    """The parameters before any step."""
    trainer, _ = train_alone(tiny_options(data, tmp_path / "fresh"), lambda: True)
    return dict(trainer.decoder.named_parameters())


@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_captions_are_scored_as_a_beam_writes_them_where_asked(data, tmp_path, penalty):
    asked = {"val_beam": 3, "val_length_penalty": penalty}
    trainer, _ = train_alone(tiny_options(data, tmp_path, **asked), lambda: True)
    batch = next(trainer.validation.reader.batches([np.arange(4)]))
    beam = DecodeOptions(method="beam", beam=3, length_penalty=penalty)
    names = [str(row) for row in batch.rows]
    written = generate(trainer.decoder, batch.features, beam, names, trainer.data.tokenizer)
    expected = {int(row): captions[0].text for row, captions in zip(batch.rows, written, strict=True)}
    assert trainer.validation._captions(trainer.decoder, batch) == expected
    save_bundle(trainer, [{"epoch": 1, "CIDEr": 0.5, "val_loss": 3.0}])
    assert Bundle.load(trainer.options.output).writing == asdict(beam.deciding())


def test_a_constant_rate_stays_at_its_peak_after_the_warmup():
    assert [learning_rate(step, 10, 4.0, 0.4, "constant") for step in range(6)] == [1, 2, 3, 4, 4, 4]


def test_the_averaged_weights_take_the_parameters_place_in_memory(data, tmp_path):
    """cuDNN needs the weights of an LSTM in one piece of memory."""
    layer = torch.nn.Linear(2, 1)
    optimizer, place = ModelOptimizer(layer, tiny_options(data, tmp_path, ema=0.9)), layer.weight.data_ptr()
    optimizer.average.named_values()["weight"].fill_(7.0)
    before = layer.weight.tolist()
    with optimizer.averaged():
        assert (layer.weight.tolist(), layer.weight.data_ptr()) == ([[7.0, 7.0]], place)
    assert layer.weight.tolist() == before
