"""Training on the device: both phases, both precisions, and NCCL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from captionbeam.capmodel.data.dataset import Data
from captionbeam.capmodel.runtime.distributed import Distributed
from captionbeam.capmodel.training.progress import EventWriter
from captionbeam.capmodel.training.trainer import Trainer
from tests.builders.model.models import make_decoder, make_features, make_tokenizer
from tests.builders.model.training import tiny_options

DATA = {
    name: str(Path(__file__).parents[1] / "fixtures/results/training" / name)
    for name in ("features", "tokens")
}


@pytest.mark.parametrize("architecture", ["attentive", "lstm", "transformer"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_phases_learn(device, tmp_path, architecture, precision):
    rates = {"learning_rate": 0.02, "self_critical_epochs": 2, "self_critical_learning_rate": 0.01}
    options = tiny_options(
        DATA, tmp_path, architecture=architecture, precision=precision, device=device, epochs=5, **rates
    )
    events: list[dict] = []
    with EventWriter(options.logs, lambda event: events.append(dict(event))) as writer:
        Trainer(
            options, Data.open(options), Distributed(0, 1, torch.device(device)), lambda: False, writer
        ).run()
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [epoch["phase"] for epoch in epochs] == ["cross-entropy"] * 5 + ["self-critical"] * 2
    assert epochs[4]["train_loss"] < 0.9 * epochs[0]["train_loss"]
    assert all(0 <= epoch["train_reward"] < 20 for epoch in epochs[5:])


def test_one_rank_of_a_process_group_averages_its_own_gradients(device, tmp_path):
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        where = torch.device(device, 0) if device == "cuda" else torch.device(device)
        decoder = make_decoder(make_tokenizer()).to(where)
        wrapped = Distributed(0, 2, where).wrap(decoder)
        tokens = torch.full((4, 1, 5), 5, device=where)
        wrapped(make_features(4).to(where).float(), tokens).square().mean().backward()
        total = torch.ones(3, device=where)
        dist.all_reduce(total)
        assert total.tolist() == [1, 1, 1]
        assert Distributed(0, 2, where).all_sum(1.5, 2) == [1.5, 2]
        assert all(
            parameter.grad is not None for parameter in decoder.parameters() if parameter.requires_grad
        )
    finally:
        dist.destroy_process_group()
