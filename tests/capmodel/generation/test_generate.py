import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.capmodel.generation.captions import DecodeOptions, generate
from captionbeam.schemas.errors import RequestError
from tests.builders.model.models import WORDS, make_decoder, make_features, make_tokenizer
from tests.builders.model.plain_search import PlainSearch

SMALL = make_tokenizer(words=3, max_length=6)
TOKENIZER = make_tokenizer(max_length=8)
SEEDS = st.integers(0, 2**31)
NAMES = [f"{number}.jpg" for number in range(64)]


def captions(decoder, features, tokenizer=TOKENIZER, names=None, **options):
    return generate(decoder, features, DecodeOptions(**options), names or NAMES[: len(features)], tokenizer)


def logprob(decoder, features, ids):
    """The sum of the model's log-probabilities of START..END ``ids`` for one image, by teacher forcing."""
    tokens = torch.tensor(ids)
    with torch.no_grad():
        logs = decoder(features, tokens[None, None, :-1])[0, 0].log_softmax(-1)
    return logs.gather(-1, tokens[1:, None]).sum().item()


def every_caption(tokenizer):
    """START..END ids of all captions that may be written within the maximum length."""
    words = range(4, tokenizer.vocab_size)
    for length in range(tokenizer.max_length - 1):
        for middle in itertools.product(words, repeat=length):
            yield [tokenizer.start, *middle, tokenizer.end]


def assert_same(found, expected, tokenizer):
    """Equal scores in order; equal captions wherever the score tells them from their neighbours."""
    assert [caption.logprob for caption in found] == pytest.approx([score for score, _ in expected], abs=1e-4)
    scores = [score for score, _ in expected]
    for place, (caption, (score, ids)) in enumerate(zip(found, expected, strict=True)):
        others = scores[:place] + scores[place + 1 :]
        if all(abs(score - other) > 1e-3 for other in others):
            assert caption.tokens == tokenizer.tokens(ids[1:-1])


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_beam_as_wide_as_all_captions_finds_them_all_in_order(seed):
    decoder, features = make_decoder(SMALL, seed=seed), make_features(1, seed=seed)
    every = [(logprob(decoder, features, ids), ids) for ids in every_caption(SMALL)]
    found = captions(decoder, features, SMALL, beam=len(every), n_best=len(every))[0]
    assert len(found) == len(every) == 1 + 3 + 9 + 27 + 81
    assert_same(found, sorted(every, reverse=True), SMALL)


@given(SEEDS, st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_a_narrow_beam_equals_a_plain_beam_search(seed, beam):
    decoder, features = make_decoder(SMALL, seed=seed), make_features(1, seed=seed)
    options = {"beam": beam, "n_best": beam}
    expected = PlainSearch(decoder, features, SMALL, DecodeOptions(**options)).search()
    assert_same(captions(decoder, features, SMALL, **options)[0], expected, SMALL)


def vocabulary(found):
    """The tokens of all captions."""
    return {token for image in found for caption in image for token in caption.tokens}


def texts(found):
    """The texts of all captions, image by image."""
    return [[caption.text for caption in image] for image in found]


METHODS = [
    {"method": "greedy"},
    {"method": "beam", "beam": 3, "n_best": 3},
    {"method": "sample", "n_best": 3, "seed": 5},
    {"method": "sample", "n_best": 2, "temperature": 0.7, "top_k": 5, "top_p": 0.9},
]


@pytest.mark.parametrize("options", METHODS, ids=str)
@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_the_logprob_is_that_of_the_whole_caption_with_end(options, seed):
    decoder, features = make_decoder(TOKENIZER, seed=seed), make_features(3, seed=seed)
    for image, found in enumerate(captions(decoder, features, **options)):
        assert [caption.logprob for caption in found] == sorted((c.logprob for c in found), reverse=True)
        for caption in found:
            ids = TOKENIZER.encode_whole(" ".join(caption.tokens))
            assert caption.text == TOKENIZER.decode(ids)
            assert caption.logprob == pytest.approx(
                logprob(decoder, features[image : image + 1], ids), abs=1e-4
            )


@pytest.mark.parametrize("options", METHODS, ids=str)
@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_a_row_does_not_depend_on_its_batch_mates(options, seed):
    decoder = make_decoder(TOKENIZER, seed=seed)
    features, others = make_features(6, seed=seed), make_features(6, seed=seed + 1)
    others[2] = features[2]
    names = ["x", "y", NAMES[2], "z", "u", "v"]
    ours = captions(decoder, features, keep_attention=True, **options)[2]
    theirs = captions(decoder, others, names=names, keep_attention=True, **options)[2]
    assert [(c.tokens, c.logprob, c.attention.tobytes()) for c in ours] == [
        (c.tokens, c.logprob, c.attention.tobytes()) for c in theirs
    ]


def test_pad_and_start_are_never_written_and_unk_only_on_request():
    decoder, features = make_decoder(TOKENIZER), make_features(8)
    with torch.no_grad():
        decoder.out_bias[[TOKENIZER.pad, TOKENIZER.start]] = 50.0
        decoder.out_bias[TOKENIZER.unk] = 40.0
    for options in METHODS:
        assert vocabulary(captions(decoder, features, **options)) <= set(WORDS)
        allowed = vocabulary(captions(decoder, features, allow_unk=True, **options))
        assert {"<unk>"} <= allowed <= {"<unk>", *WORDS}


@pytest.mark.parametrize("options", METHODS, ids=str)
def test_a_caption_at_the_maximum_length_is_closed_with_end(options):
    decoder, features = make_decoder(TOKENIZER), make_features(4)
    with torch.no_grad():
        decoder.out_bias[TOKENIZER.end] = -30.0
    for image, found in enumerate(captions(decoder, features, max_length=5, **options)):
        for caption in found:
            assert len(caption.tokens) == 3
            ids = TOKENIZER.encode_whole(caption.text)
            expected = logprob(decoder, features[image : image + 1], ids)
            assert caption.logprob == pytest.approx(expected, abs=1e-4)
            assert caption.logprob < -20


def test_the_maximum_length_is_the_models_where_none_is_asked_for():
    decoder, features = make_decoder(TOKENIZER), make_features(4)
    with torch.no_grad():
        decoder.out_bias[TOKENIZER.end] = -30.0
    assert {len(found[0].tokens) for found in captions(decoder, features)} == {TOKENIZER.max_length - 2}
    assert {len(found[0].tokens) for found in captions(decoder, features, max_length=30)} == {28}


def test_a_beam_stops_when_no_other_caption_can_be_better():
    decoder, features = make_decoder(TOKENIZER), make_features(4)
    steps = []
    step = decoder.step
    decoder.step = lambda state, tokens: steps.append(tokens.shape) or step(state, tokens)
    with torch.no_grad():
        decoder.out_bias[TOKENIZER.end] = 30.0
    best = captions(decoder, features, beam=3, max_length=50)
    assert (texts(best), steps) == ([[""]] * 4, [(4, 1)])
    every = captions(decoder, features, beam=3, n_best=3, max_length=50)
    assert [found[:1] for found in every] == best
    assert steps == [(4, 1), (4, 1), (4, 3)], "the other two captions take a word each"


@pytest.mark.parametrize("options", METHODS, ids=str)
def test_every_caption_starts_with_the_prefix_and_is_scored_with_it(options):
    decoder, features = make_decoder(TOKENIZER), make_features(4)
    for image, found in enumerate(
        captions(decoder, features, prefix="Two dog", keep_attention=True, **options)
    ):
        assert found
        for caption in found:
            assert caption.tokens[:2] == ["two", "dog"]
            assert caption.attention.shape == (len(caption.tokens), 6)
            ids = TOKENIZER.encode_whole(caption.text)
            assert caption.logprob == pytest.approx(
                logprob(decoder, features[image : image + 1], ids), abs=1e-4
            )


@pytest.mark.parametrize("options", METHODS, ids=str)
def test_attention_is_that_of_each_token_of_the_surviving_caption(options):
    decoder, features = make_decoder(TOKENIZER, seed=3), make_features(3)
    for image, found in enumerate(captions(decoder, features, keep_attention=True, **options)):
        for caption in found:
            ids = TOKENIZER.encode_whole(" ".join(caption.tokens))
            expected, state = [], decoder.begin(features[image : image + 1])
            for word in ids[:-2]:
                _, state, weights = decoder.step(state, torch.tensor([[word]]))
                expected.append(weights[0, 0].detach().numpy())
            assert caption.attention.dtype == np.float32
            np.testing.assert_allclose(caption.attention, np.array(expected).reshape(-1, 6), atol=1e-5)


def test_a_sample_depends_on_seed_and_image_alone():
    decoder, features = make_decoder(TOKENIZER), make_features(1).expand(4, -1, -1, -1)
    options = {"method": "sample", "n_best": 2}
    first = texts(captions(decoder, features, names=["a", "b", "c", "a"], **options))
    assert first[0] == first[3]
    assert len({str(found) for found in first}) == 3
    moved = texts(captions(decoder, features, names=["c", "a", "a", "b"], **options))
    assert moved == [first[2], first[0], first[0], first[1]]
    assert texts(captions(decoder, features, names=["a", "b", "c", "a"], seed=1, **options)) != first


def frequencies(**options):
    """How often each word is drawn first, of 4,000 draws, and the model's own chances."""
    tokenizer = make_tokenizer(max_length=3)
    decoder, features = make_decoder(tokenizer, seed=1), make_features(1)
    found = captions(decoder, features, tokenizer, method="sample", n_best=4000, **options)[0]
    drawn = [tokenizer.encode_whole(caption.text)[1] for caption in found]
    logits, _, _ = decoder.step(decoder.begin(features), torch.tensor([[tokenizer.start]]))
    logits = logits[0, 0].detach().clone()
    logits[[tokenizer.pad, tokenizer.start, tokenizer.unk]] = -math.inf
    return np.bincount(drawn, minlength=tokenizer.vocab_size) / 4000, logits


def test_samples_follow_the_models_chances():
    found, logits = frequencies()
    np.testing.assert_allclose(found, logits.softmax(-1).numpy(), atol=0.03)


def test_top_k_leaves_the_likeliest_words_only():
    found, logits = frequencies(top_k=2, temperature=5.0)
    assert set(found.nonzero()[0]) == set(logits.topk(2).indices.tolist())


def test_top_p_leaves_the_fewest_words_that_reach_it():
    found, logits = frequencies(top_p=0.6, temperature=5.0)
    chances, words = (logits / 5).softmax(-1).sort(descending=True)
    few = int((chances.cumsum(-1) < 0.6).sum()) + 1
    assert set(found.nonzero()[0]) == set(words[:few].tolist())
    kept = chances[:few] / chances[:few].sum()
    np.testing.assert_allclose(found[words[:few].numpy()], kept.numpy(), atol=0.03)


def test_top_k_of_one_is_greedy_and_so_are_a_tiny_top_p_and_temperature():
    decoder, features = make_decoder(TOKENIZER), make_features(4)
    greedy = captions(decoder, features, method="greedy")
    assert captions(decoder, features, method="sample", top_k=1) == greedy
    assert captions(decoder, features, method="sample", top_p=1e-6) == greedy
    assert captions(decoder, features, method="sample", temperature=1e-6) == greedy
    power = {"temperature_convention": "probability-power", "temperature": 1e6}
    assert captions(decoder, features, method="sample", **power) == greedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 4, "beam_groups": 3}, "beam-groups is 3; expected a divisor of the beam, 4"),
        ({"beam": 4, "beam_groups": 2}, "diversity is 0.0; expected above 0 for groups to differ"),
        ({"method": "sample", "temperature": 1e-45}, "is 1e-45; expected a number from 1e-06 to 1,000,000"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        DecodeOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": "a zebra"}, "prefix 'a zebra' has a word that the model does not know"),
        (
            {"prefix": "a dog on grass", "max_length": 5},
            "prefix 'a dog on grass' has 4 tokens; expected at most 3",
        ),
    ],
)
def test_a_prefix_that_cannot_be_written_is_refused(options, message):
    with pytest.raises(RequestError, match=message):
        captions(make_decoder(TOKENIZER), make_features(1), **options)
