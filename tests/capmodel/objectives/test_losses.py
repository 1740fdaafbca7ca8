import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.capmodel.objectives.losses import masked_cross_entropy, next_word_hits

PAD = 0


def test_the_sum_and_the_number_of_words_leave_padding_out():
    logits = torch.tensor([[[0.0, math.log(3), 0.0], [0.0, 0.0, math.log(2)], [9.0, 9.0, 9.0]]])
    targets = torch.tensor([[1, 2, PAD]])
    total, words = masked_cross_entropy(logits, targets, PAD)
    assert total.item() == pytest.approx(-math.log(3 / 5) - math.log(2 / 4))
    assert words.item() == 2


def test_nothing_but_padding_is_a_loss_of_nought_over_nought_words():
    total, words = masked_cross_entropy(torch.randn(2, 3, 5), torch.full((2, 3), PAD), PAD)
    assert (total.item(), words.item()) == (0.0, 0)


def test_padding_gets_no_gradient():
    logits = torch.randn(1, 3, 5, requires_grad=True)
    masked_cross_entropy(logits, torch.tensor([[2, PAD, 4]]), PAD)[0].backward()
    assert logits.grad[0, 1].eq(0).all()
    assert logits.grad[0, [0, 2]].ne(0).all()


def test_half_precision_logits_are_summed_in_float32():
    logits, targets = torch.randn(4000, 7), torch.randint(1, 7, (4000,))
    total, _ = masked_cross_entropy(logits.bfloat16(), targets, PAD)
    exact, _ = masked_cross_entropy(logits.bfloat16().double(), targets, PAD)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(exact.item(), rel=1e-5)


def test_smoothing_gives_a_share_to_every_word():
    logits, targets = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([2])
    logs = logits.log_softmax(-1)[0]
    total, _ = masked_cross_entropy(logits, targets, PAD, label_smoothing=0.3)
    assert total.item() == pytest.approx(-(0.7 * logs[2] + 0.3 * logs.mean()).item())


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**31))
def test_the_parts_of_a_batch_add_up_to_the_whole(parts, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(parts, 3, 4, 6, generator=generator)
    targets = torch.randint(0, 6, (parts, 3, 4), generator=generator)
    total, words = masked_cross_entropy(logits, targets, PAD)
    each = [masked_cross_entropy(*part, PAD) for part in zip(logits, targets, strict=True)]
    assert sum(part.item() for part, _ in each) == pytest.approx(total.item(), rel=1e-5)
    assert sum(count.item() for _, count in each) == words.item()


def test_hits_count_the_likeliest_words_but_never_padding():
    logits = torch.eye(4)[[1, 2, 3, 0]].unsqueeze(0)
    assert next_word_hits(logits, torch.tensor([[1, 3, 3, PAD]]), PAD).item() == 2
