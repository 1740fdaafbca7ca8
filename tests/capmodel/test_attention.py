import torch

from capmodel.decoders.attention import AdditiveAttention

IMAGES, CAPTIONS, CELLS, CHANNELS, WIDTH = 2, 3, 4, 5, 6


def attended(seed=0):
    torch.manual_seed(seed)
    attention = AdditiveAttention(CHANNELS, WIDTH)
    values = torch.randn(IMAGES, CELLS, CHANNELS)
    query = torch.randn(IMAGES, CAPTIONS, WIDTH, requires_grad=True)
    return attention, values, query, attention(attention.keys(values), values, query)


def by_the_formula(attention, values, query):
    """Bahdanau's softmax(v . tanh(W f + q)), one caption at a time."""
    keys = attention.key(values)
    scores = torch.stack(
        [torch.tanh(keys + query[:, n : n + 1]) @ attention.score.weight[0] for n in range(CAPTIONS)], dim=1
    )
    return scores.softmax(-1)


def test_the_weights_are_those_of_tanh():
    attention, values, query, (_, weights) = attended()
    torch.testing.assert_close(weights, by_the_formula(attention, values, query))


def test_the_gradients_are_those_of_tanh():
    attention, values, query, (_, weights) = attended()
    expected = by_the_formula(attention, values, query)
    judged = torch.randn_like(weights)
    inputs = [query, *attention.parameters()]
    ours = torch.autograd.grad((weights * judged).sum(), inputs)
    theirs = torch.autograd.grad((expected * judged).sum(), inputs)
    torch.testing.assert_close(ours, theirs)


def test_the_context_is_the_cells_weighted_mean():
    _, values, _, (context, weights) = attended()
    torch.testing.assert_close(weights.sum(-1), torch.ones(IMAGES, CAPTIONS))
    expected = (weights.unsqueeze(-1) * values.unsqueeze(1)).sum(2)
    torch.testing.assert_close(context, expected)


def test_a_single_cell_gets_all_the_weight():
    attention = AdditiveAttention(CHANNELS, WIDTH)
    values = torch.randn(IMAGES, 1, CHANNELS)
    context, weights = attention(attention.keys(values), values, torch.randn(IMAGES, CAPTIONS, WIDTH))
    assert weights.eq(1).all()
    torch.testing.assert_close(context, values.expand(-1, CAPTIONS, -1))


def test_large_scores_stay_finite():
    attention = AdditiveAttention(CHANNELS, WIDTH)
    values = torch.full((IMAGES, CELLS, CHANNELS), 1e4)
    context, weights = attention(attention.keys(values), values, torch.full((IMAGES, CAPTIONS, WIDTH), -1e4))
    assert context.isfinite().all()
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / CELLS))
