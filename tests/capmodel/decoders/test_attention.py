import entmax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from captionbeam.capmodel.decoders import DecoderConfig
from captionbeam.capmodel.decoders.attention import AdditiveAttention, make_attention, sparsemax

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


def test_the_gradients_are_those_of_tanh():
    attention, values, query, (_, weights) = attended()
    expected = by_the_formula(attention, values, query)
    judged = torch.randn_like(weights)
    inputs = [query, *attention.parameters()]
    ours = torch.autograd.grad((weights * judged).sum(), inputs)
    theirs = torch.autograd.grad((expected * judged).sum(), inputs)
    torch.testing.assert_close(ours, theirs)


def made(name, cells=CELLS, **settings):
    """An attention of that name in evaluation mode, a grid and a query for it."""
    torch.manual_seed(0)
    sizes = {"feature_dim": 6, "attention_dim": 8, "heads": 2} if name == "multi-head" else {}
    config = DecoderConfig(9, (1, cells, 3), attention=name, **sizes, **settings)
    query = torch.randn(IMAGES, CAPTIONS, config.attention_dim)
    return make_attention(config).eval(), torch.randn(IMAGES, cells, config.feature_dim), 4 * query


def looked(attention, grid, query):
    return attention(attention.keys(grid), attention.values(grid), query)


def scores_by_the_formula(attention, grid, query):
    keys = attention.key(grid)
    return torch.tanh(keys.unsqueeze(1) + query.unsqueeze(2)) @ attention.score.weight[0]


def test_dot_attention_is_a_scaled_dot_product():
    attention, grid, query = made("dot")
    context, weights = looked(attention, grid, query)
    keys = attention.key(grid)
    for image in range(IMAGES):
        for caption in range(CAPTIONS):
            scores = torch.stack([keys[image, cell] @ query[image, caption] for cell in range(CELLS)])
            expected = (scores / keys.shape[-1] ** 0.5).softmax(0)
            torch.testing.assert_close(weights[image, caption], expected)
            torch.testing.assert_close(context[image, caption], expected @ grid[image])


def test_multi_head_attention_is_torchs_own():
    """With torch's projections of the query and of the output left out: they are the decoder's."""
    attention, grid, query = made("multi-head")
    width = query.shape[-1]
    theirs = torch.nn.MultiheadAttention(width, 2, bias=False, kdim=6, vdim=6, batch_first=True)
    wide = torch.zeros(width, 6)
    wide[[0, 1, 2, 4, 5, 6]] = attention.value.weight  # a head of theirs has 4 channels of values, ours 3
    with torch.no_grad():
        theirs.q_proj_weight.copy_(torch.eye(width))
        theirs.k_proj_weight.copy_(attention.key.weight)
        theirs.v_proj_weight.copy_(wide)
        theirs.out_proj.weight.copy_(torch.eye(width))
    expected, expected_weights = theirs(query, grid, grid)
    context, weights = looked(attention, grid, query)
    torch.testing.assert_close(weights, expected_weights)
    torch.testing.assert_close(context, expected[..., [0, 1, 2, 4, 5, 6]])


def test_sparsemax_attention_leaves_cells_out():
    attention, grid, query = made("sparsemax", cells=12)
    with torch.no_grad():
        attention.score.weight.mul_(8)
    _, weights = looked(attention, grid, query)
    torch.testing.assert_close(weights, entmax.sparsemax(scores_by_the_formula(attention, grid, query), -1))
    assert weights.eq(0).any()
    assert weights.gt(0).sum(-1).max() > 1


def test_hard_attention_takes_the_likeliest_cell():
    attention, grid, query = made("hard")
    context, weights = looked(attention, grid, query)
    best = scores_by_the_formula(attention, grid, query).argmax(-1)
    assert weights.equal(functional.one_hot(best, CELLS).float())
    assert context.equal(torch.stack([grid[image][best[image]] for image in range(IMAGES)]))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_hard_attention_learns_as_the_soft_draw_does(temperature):
    attention, grid, query = made("hard", hard_temperature=temperature)
    attention.train()
    query.requires_grad_()
    judged = torch.randn(IMAGES, CAPTIONS, CELLS)
    torch.manual_seed(1)
    ours = torch.autograd.grad((looked(attention, grid, query)[1] * judged).sum(), query)
    torch.manual_seed(1)
    scores = scores_by_the_formula(attention, grid, query)
    noise = -torch.empty_like(scores).exponential_().log()
    soft = ((scores + noise) / temperature).softmax(-1)
    torch.testing.assert_close(ours, torch.autograd.grad((soft * judged).sum(), query))


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_sparsemax_is_the_nearest_point_of_the_simplex(values):
    ours = sparsemax(torch.tensor(values, dtype=torch.float64))
    torch.testing.assert_close(ours, entmax.sparsemax(torch.tensor(values, dtype=torch.float64), -1))
    assert ours.sum().item() == pytest.approx(1)
    assert ours.ge(0).all()


@pytest.mark.parametrize("offset", [-1e5, 1e5])
def test_what_all_scores_have_in_common_changes_nothing(offset):
    torch.manual_seed(0)
    scores = (torch.randn(50, 64) + offset).requires_grad_()  # float32: rounded, but then exact
    weights = sparsemax(scores)
    torch.testing.assert_close(weights.sum(-1), torch.ones(50), rtol=0, atol=1e-6)
    expected = sparsemax(scores.detach().double())
    torch.testing.assert_close(weights.double(), expected, rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad((weights * torch.randn(50, 64)).sum(), scores)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(50), rtol=0, atol=1e-4)
