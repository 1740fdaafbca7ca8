"""The transformer decoder: against the formulas, step by step against all at once, and searched."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.capmodel.decoders.transformer import sinusoids
from captionbeam.capmodel.generation.captions import DecodeOptions, generate
from captionbeam.schemas.errors import RequestError
from tests.builders.model.models import make_decoder as make_random
from tests.builders.model.models import make_features, make_tokenizer
from tests.builders.model.plain_search import PlainSearch
from tests.builders.model.sentences import padded, stepped

TOKENIZER = make_tokenizer(max_length=8)
SMALL = make_tokenizer(words=3, max_length=6)
SEEDS = st.integers(0, 2**31)


def transformer(tokenizer=TOKENIZER, shape=(2, 3, 5), seed=0, **chosen):
    """Random, but tame: the weights of a model that has learned something."""
    decoder = make_random(tokenizer, shape, seed, architecture="transformer", **chosen)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter *= 0.5 if parameter.dim() > 1 else 0.2
            parameter += 1.0 if "norm" in name and name.endswith("weight") else 0.0
    return decoder


def normal(norm, rows):
    """Layer normalisation, over the last axis."""
    scaled = (rows - rows.mean(-1, keepdim=True)) / (rows.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    return scaled * norm.weight + norm.bias


def attention(queries, keys, values, heads, mask=None):
    """``softmax(q k / sqrt(d)) v``, head by head, side by side; and the mean of the heads' weights."""
    outputs, weights = [], []
    for q, k, v in zip(*(part.chunk(heads, -1) for part in (queries, keys, values)), strict=True):
        scores = q @ k.T / math.sqrt(q.shape[-1])
        weights.append((scores if mask is None else scores.masked_fill(mask, -math.inf)).softmax(-1))
        outputs.append(weights[-1] @ v)
    return torch.cat(outputs, -1), torch.stack(weights).mean(0)


def by_the_book(decoder, grid, caption):
    """Logits ``[T, V]`` and the last layer's weights ``[T, L]`` of one caption (Vaswani et al. 2017, section 3)."""
    c = decoder.config
    memory = normal(decoder.normalise, decoder.project(grid.float().reshape(c.cells, c.channels)))
    length = len(caption)
    places = sinusoids(length, c.embed_dim) if c.positions == "sinusoidal" else decoder.places.weight[:length]
    stream = decoder.embed.weight[caption] * math.sqrt(c.embed_dim) + places
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = None
    for layer in decoder.layers:
        q, k, v = layer.from_words(normal(layer.norms[0], stream)).chunk(3, -1)
        stream = stream + layer.to_words(attention(q, k, v, c.heads, future)[0])
        keys, values = layer.from_grid(memory).chunk(2, -1)
        seen, weights = attention(layer.query(normal(layer.norms[1], stream)), keys, values, c.heads)
        stream = stream + layer.to_grid(seen)
        stream = stream + layer.narrow(layer.widen(normal(layer.norms[2], stream)).clamp(min=0))
    return normal(decoder.settle, stream) @ decoder.embed.weight.T + decoder.out_bias, weights


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_the_logits_and_weights_are_those_of_the_book(positions):
    decoder, features, tokens = transformer(positions=positions), make_features(3), padded(TOKENIZER)
    logits = decoder(features, tokens)
    state = decoder.begin(features).select(torch.zeros(tokens.shape[:2], dtype=torch.int64))
    seen = []
    for word in tokens.unbind(-1):
        _, state, weights = decoder.step(state, word)
        seen.append(weights)
    for image in range(3):
        for n in range(2):
            expected, weights = by_the_book(decoder, features[image], tokens[image, n])
            torch.testing.assert_close(logits[image, n], expected)
            torch.testing.assert_close(torch.stack(seen, 2)[image, n], weights)


def test_positions_are_the_waves_of_the_book():
    waves = sinusoids(9, 6)
    for place in range(9):
        for pair in range(3):
            angle = place / 10_000 ** (2 * pair / 6)
            assert waves[place, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert waves[place, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert sinusoids(4, 5).shape == (4, 5)


@given(
    SEEDS, st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 2, 3, 6]), st.integers(1, 3), st.data()
)
@settings(max_examples=20, deadline=None)
def test_all_steps_at_once_equal_step_by_step(seed, images, captions, heads, layers, data):
    shape = data.draw(st.sampled_from([(2, 3, 5), (1, 1, 4), (7,)]))
    steps = data.draw(st.integers(1, 7))
    decoder = transformer(shape=shape, seed=seed, heads=heads, layers=layers)
    tokens = torch.from_numpy(np.random.default_rng(seed).integers(0, 12, (images, captions, steps)))
    features = make_features(images, shape, seed=seed)
    torch.testing.assert_close(
        decoder(features, tokens), stepped(decoder, features, tokens), atol=1e-5, rtol=1e-5
    )


@given(SEEDS, st.integers(1, 4), st.sampled_from([0.0, 1.0]))
@settings(max_examples=10, deadline=None)
def test_a_beam_search_equals_one_that_computes_everything_anew(seed, beam, power):
    decoder, features = transformer(SMALL, seed=seed), make_features(2, seed=seed)
    options = DecodeOptions(beam=beam, n_best=beam, length_penalty=power if beam > 1 else 0.0)
    found = generate(decoder, features, options, ["a", "b"], SMALL)
    for image in range(2):
        expected = PlainSearch(decoder, features[image : image + 1], SMALL, options).search()
        assert [c.tokens for c in found[image]] == [SMALL.tokens(ids[1:-1]) for _, ids in expected]
        assert [c.logprob for c in found[image]] == pytest.approx([score for score, _ in expected], abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"beam": 3, "n_best": 3}, {"method": "sample", "n_best": 2}],
    ids=str,
)
def test_a_row_does_not_depend_on_its_batch_mates_at_a_working_size(options):
    tokenizer, shape = make_tokenizer(max_length=12), (4, 4, 64)
    sizes = {"embed_dim": 64, "heads": 4, "layers": 2, "feedforward_dim": 256}
    decoder = make_random(tokenizer, shape, architecture="transformer", **sizes)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter *= 0.3
        decoder.out_bias[TOKENIZER.end] -= 3.0
    features, names = make_features(16, shape), [f"{n}.jpg" for n in range(16)]
    order = np.random.default_rng(0).permutation(16)
    straight, mixed = (
        generate(decoder, grids, DecodeOptions(**options), ids, tokenizer)
        for grids, ids in ((features, names), (features[order], [names[place] for place in order]))
    )
    assert len({found[0].logprob for found in straight}) == 16
    assert mixed == [straight[place] for place in order]


def test_waves_reach_any_length_and_learned_positions_only_theirs():
    features = make_features(2)
    long = DecodeOptions(method="greedy", max_length=20)
    waves, learned = transformer(), transformer(positions="learned")
    with torch.no_grad():
        waves.out_bias[TOKENIZER.end] = -90.0
    found = generate(waves, features, long, ["a", "b"], TOKENIZER)
    assert [len(image[0].tokens) for image in found] == [18, 18]
    with pytest.raises(
        RequestError, match="max-length is 20; expected at most 8, the positions it has learned"
    ):
        generate(learned, features, long, ["a", "b"], TOKENIZER)


def test_dropout_acts_on_words_layers_and_grid_in_training_only():
    features, tokens = make_features(3), padded(TOKENIZER)
    for name in ("dropout", "embed_dropout", "grid_dropout"):
        none = {"dropout": 0.0, "embed_dropout": 0.0, "grid_dropout": 0.0}
        decoder = transformer(**{**none, name: 0.5})
        assert decoder(features, tokens).equal(decoder(features, tokens))
        decoder.train()
        assert not decoder(features, tokens).equal(decoder(features, tokens))
        torch.testing.assert_close(
            transformer(**none).train()(features, tokens), decoder.eval()(features, tokens)
        )
