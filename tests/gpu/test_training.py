"""Training on the device: both phases, both precisions, and NCCL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from captionbeam.capmodel.runtime.device import autocast, pick_device
from tests.builders.model.models import make_decoder, make_features, make_tokenizer
from tests.builders.model.training import tiny_options, train_alone

DATA = {
    name: str(Path(__file__).parents[1] / "fixtures/results/training" / name)
    for name in ("features", "tokens")
}
SELF_CRITICAL = {"self_critical_epochs": 2, "self_critical_learning_rate": 0.01}


@pytest.mark.filterwarnings("error:RNN module weights")  # which cuDNN would copy at each call
@pytest.mark.parametrize("architecture", ["attentive", "lstm", "transformer"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_phases_learn(device, tmp_path, architecture, precision):
    chosen = {"architecture": architecture, "precision": precision, "ema": 0.5, **SELF_CRITICAL}
    options = tiny_options(DATA, tmp_path, epochs=5, learning_rate=0.02, device=device, **chosen)
    _, events = train_alone(options, device=str(pick_device(device)))
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [epoch["phase"] for epoch in epochs] == ["cross-entropy"] * 5 + ["self-critical"] * 2
    assert epochs[4]["train_loss"] < 0.9 * epochs[0]["train_loss"]
    assert all(0 <= epoch["train_reward"] < 20 for epoch in epochs[5:])


def test_an_lstm_in_bfloat16_is_not_computed_in_float16(device):
    """As cuDNN's is under CUDA's autocast, whatever its precision."""
    where, seen = pick_device(device), []
    decoder = make_decoder(make_tokenizer(), architecture="lstm").to(where)
    decoder.lstm.register_forward_hook(lambda _, given, out: seen.append(out[0].dtype))
    with autocast(where, "bf16"):
        decoder(make_features(4).to(where), torch.full((4, 1, 5), 5, device=where))
    assert seen
    assert torch.float16 not in seen


def test_one_rank_of_a_process_group_learns_what_a_process_learns(device, tmp_path):
    where, backend = str(pick_device(device)), "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    how = {"epochs": 2, "accumulate": 2, "precision": "fp32", "batch_size": 4, **SELF_CRITICAL}
    alone, _ = train_alone(tiny_options(DATA, tmp_path / "alone", **how), device=where)
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        trainer, _ = train_alone(tiny_options(DATA, tmp_path / "group of one", **how), device=where)
    finally:
        dist.destroy_process_group()
    assert isinstance(trainer.model, DistributedDataParallel)
    expected = dict(alone.decoder.named_parameters())
    for name, value in trainer.decoder.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
