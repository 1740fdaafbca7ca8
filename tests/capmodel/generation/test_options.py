"""Length penalty, n-gram blocking, groups of beams, temperature: against a plain search over lists of tokens."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.capmodel.generation.captions import DecodeOptions, generate
from tests.builders.model.models import make_decoder, make_features, make_tokenizer
from tests.builders.model.plain_search import PlainSearch

SMALL = make_tokenizer(words=3, max_length=6)
TOKENIZER = make_tokenizer(max_length=9)
SEEDS = st.integers(0, 2**31)
NAMES = [f"{number}.jpg" for number in range(64)]


def captions(decoder, features, tokenizer=TOKENIZER, names=None, **options):
    return generate(decoder, features, DecodeOptions(**options), names or NAMES[: len(features)], tokenizer)


def assert_plain(seed, **options):
    """What is found for two images at once is what the plain search finds for each."""
    decoder, features = make_decoder(SMALL, seed=seed), make_features(2, seed=seed)
    found = captions(decoder, features, SMALL, **options)
    for image in range(2):
        expected = PlainSearch(decoder, features[image : image + 1], SMALL, DecodeOptions(**options)).search()
        assert [c.tokens for c in found[image]] == [SMALL.tokens(ids[1:-1]) for _, ids in expected]
        assert [c.logprob for c in found[image]] == pytest.approx([score for score, _ in expected], abs=1e-4)


@given(SEEDS, st.integers(2, 5), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from(["length", "gnmt"]))
@settings(max_examples=15, deadline=None)
def test_a_penalised_beam_equals_a_plain_search_that_never_stops_early(seed, beam, power, formula):
    assert_plain(seed, beam=beam, n_best=1 + seed % beam, length_penalty=power, length_formula=formula)


@given(SEEDS, st.integers(2, 3), st.integers(1, 2), st.sampled_from([0.3, 2.0]), st.sampled_from([0.0, 1.0]))
@settings(max_examples=15, deadline=None)
def test_groups_equal_a_plain_search_group_by_group(seed, groups, each, diversity, power):
    beam = groups * each
    power = power if each > 1 else 0.0
    assert_plain(
        seed,
        beam=beam,
        n_best=1 + seed % beam,
        beam_groups=groups,
        diversity=diversity,
        length_penalty=power,
    )


@given(SEEDS, st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_a_beam_that_repeats_nothing_equals_a_plain_search(seed, beam, size):
    assert_plain(seed, beam=beam, n_best=beam, no_repeat_ngram=size)


def test_a_penalised_beam_stops_when_no_running_caption_can_still_win():
    """END costs 2.2 and each "a" 1.7: the sum takes END after two steps, the mean waits for the longest caption."""
    decoder, features = make_decoder(TOKENIZER), make_features(1)
    steps = []
    step = decoder.step
    decoder.step = lambda state, tokens: steps.append(tokens.shape) or step(state, tokens)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        decoder.out_bias[4] = 1.0
        decoder.out_bias[TOKENIZER.end] = 0.5

    def found(**options):
        steps.clear()
        return captions(decoder, features, beam=2, **options)[0][0].text, len(steps)

    assert found() == ("", 2)
    assert found(length_penalty=1.0) == (" ".join("a" * 7), TOKENIZER.max_length - 1)


REPEATING = [
    {"method": "greedy"},
    {"method": "beam", "beam": 4, "n_best": 4},
    {"method": "beam", "beam": 4, "n_best": 4, "beam_groups": 2, "diversity": 0.5},
    {"method": "sample", "n_best": 4, "temperature": 0.5},
]


@pytest.mark.parametrize("options", REPEATING, ids=str)
@pytest.mark.parametrize("size", [2])
def test_no_ngram_is_written_twice(options, size):
    decoder, features = make_decoder(TOKENIZER), make_features(6)
    with torch.no_grad():
        decoder.out_bias[TOKENIZER.end] = -9.0
        decoder.out_bias[4:6] += 20.0  # it would say "a dog a dog ..." for ever

    def repeats(found):
        return sum(
            count - 1
            for image in found
            for caption in image
            for count in Counter(zip(*(caption.tokens[at:] for at in range(size)), strict=False)).values()
        )

    assert repeats(captions(decoder, features, max_length=16, **options)) > 6
    assert repeats(captions(decoder, features, max_length=16, no_repeat_ngram=size, **options)) == 0


def test_the_two_temperature_conventions_agree_with_the_inverse():
    decoder, features = make_decoder(TOKENIZER), make_features(4)
    options = {"method": "sample", "n_best": 5, "top_p": 0.95}
    power = captions(
        decoder, features, temperature=0.7, temperature_convention="probability-power", **options
    )
    assert power == captions(decoder, features, temperature=1 / 0.7, **options)
    assert power != captions(decoder, features, temperature=0.7, **options)


def test_a_record_has_only_options_that_differ_from_their_defaults():
    assert DecodeOptions().to_dict() == {}
    assert DecodeOptions(beam=5, n_best=2).to_dict() == {"beam": 5, "n_best": 2}
    given = [
        DecodeOptions(length_penalty=0.7, length_formula="gnmt", no_repeat_ngram=3),
        DecodeOptions(beam=4, beam_groups=2, diversity=0.5),
        DecodeOptions(method="sample", temperature=2.0, temperature_convention="probability-power"),
    ]
    for options in given:
        assert DecodeOptions.from_dict(options.to_dict()) == options
    assert (
        DecodeOptions(method="greedy", length_penalty=1.0).to_dict()
        == DecodeOptions(method="greedy").to_dict()
    )


@pytest.mark.parametrize("formula", ["length", "gnmt"])
def test_the_best_by_penalty_of_all_captions_is_found_by_a_wide_beam(formula):
    """121 captions are possible: the beam holds them all, and their order is that of the formula."""
    decoder, features = make_decoder(SMALL, seed=2), make_features(1)
    (every,) = captions(decoder, features, SMALL, beam=121, n_best=121)
    (ranked,) = captions(
        decoder, features, SMALL, beam=121, n_best=121, length_penalty=1.5, length_formula=formula
    )

    def rank(caption):
        length = len(caption.tokens) + 1
        return caption.logprob / (length if formula == "length" else (5 + length) / 6) ** 1.5

    words = [caption.tokens for caption in ranked]
    assert words == [caption.tokens for caption in sorted(every, key=rank, reverse=True)]
    assert words != [caption.tokens for caption in every]


def test_samples_follow_the_chances_to_the_power_of_the_temperature():
    tokenizer = make_tokenizer(max_length=3)
    decoder, features = make_decoder(tokenizer, seed=1), make_features(1)
    options = {"method": "sample", "temperature": 0.3, "temperature_convention": "probability-power"}
    (found,) = captions(decoder, features, tokenizer, n_best=4000, **options)
    drawn = [tokenizer.encode_whole(caption.text)[1] for caption in found]
    logits, _, _ = decoder.step(decoder.begin(features), torch.tensor([[tokenizer.start]]))
    chances = logits[0, 0].detach().softmax(-1)
    chances[[tokenizer.pad, tokenizer.start, tokenizer.unk]] = 0
    expected = chances**0.3 / (chances**0.3).sum()
    frequencies = np.bincount(drawn, minlength=tokenizer.vocab_size) / 4000
    np.testing.assert_allclose(frequencies, expected.numpy(), atol=0.03)
