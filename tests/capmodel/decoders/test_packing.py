"""Captions packed by step, and a recurrence's linear layer whose weights' gradient is made at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from captionbeam.capmodel.decoders.deferred_linear import deferred
from captionbeam.capmodel.decoders.packing import PackedCaptions

MASKS = arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=5)).map(torch.from_numpy)
LENGTHS = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=5)


@settings(deadline=None)
@given(MASKS)
def test_picks_find_every_wanted_position_in_row_major_order(wanted):
    tokens = torch.arange(wanted.numel()).view(wanted.shape)
    blocks = PackedCaptions.of(wanted)
    assert blocks.rows(tokens)[blocks.picks].tolist() == tokens[wanted].tolist()


@settings(deadline=None)
@given(LENGTHS)
def test_a_step_holds_the_images_and_captions_that_still_run(lengths):
    lengths = np.array(lengths)
    wanted = torch.from_numpy(np.arange(7) < lengths[..., None])
    expected = []
    for step in range(lengths.max()):
        running = lengths > step
        expected.append((int(running.any(1).sum()), int(running.sum(1).max())))
    assert PackedCaptions.of(wanted).sizes == expected


def test_a_caption_keeps_its_place_in_all_steps():
    wanted = torch.tensor([[[True, False, False], [True, True, True]], [[True, True, False], [False] * 3]])
    blocks = PackedCaptions.of(wanted)
    assert blocks.images.tolist() == [0, 1]
    assert blocks.captions.tolist() == [[1, 0], [0, 1]]
    assert blocks.sizes == [(2, 2), (2, 1), (1, 1)]
    tokens = torch.arange(12).view(2, 2, 3)
    assert blocks.rows(tokens).tolist() == [3, 0, 6, 9, 4, 7, 5]
    assert blocks.picks.tolist() == [1, 0, 4, 6, 2, 5]


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
