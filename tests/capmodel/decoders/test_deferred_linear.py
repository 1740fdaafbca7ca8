"""A recurrence's linear layer whose weights' gradient is made at the end: the same function and gradients."""

from __future__ import annotations

import pytest
import torch

from captionbeam.capmodel.decoders.deferred_linear import deferred


def walked(make, layer, start, sizes):
    """A recurrence over shrinking rows, and the gradients of its weights and its start."""
    step, rows, state = make(layer), [], start
    for size in sizes:
        state = torch.tanh(step(state[:size]).float())
        rows.append(state)
    loss = torch.cat([row.flatten() for row in rows]).square().sum()
    return loss, torch.autograd.grad(loss, (layer.weight, start))


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-6), (True, 0.02)])
def test_values_and_gradients_are_the_layers_own(bf16, tolerance):
    torch.manual_seed(0)
    layer, start = torch.nn.Linear(8, 8, bias=False), torch.randn(5, 2, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        ours, theirs = (walked(make, layer, start, [5, 5, 3, 1]) for make in (deferred, lambda same: same))
    assert ours[0].item() == theirs[0].item()
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_without_gradients_it_is_the_layer_itself():
    layer = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        assert deferred(layer) is layer
