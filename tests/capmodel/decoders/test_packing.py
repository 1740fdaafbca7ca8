import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

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
@given(MASKS)
def test_blocks_only_shrink(wanted):
    sizes = PackedCaptions.of(wanted).sizes
    assert sizes == sorted(sizes, reverse=True)
    assert [n for _, n in sizes] == sorted((n for _, n in sizes), reverse=True)


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
