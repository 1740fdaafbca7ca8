"""Self-critical training: what is drawn, what it is worth, and which gradient that gives."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from captionbeam.capmodel.data.loader import Batch
from captionbeam.capmodel.generation.captions import DecodeOptions, generate
from captionbeam.capmodel.objectives.objective import CrossEntropy, Mixed
from captionbeam.capmodel.self_critical.objective import PolicyTargets, SelfCritical
from captionbeam.capmodel.self_critical.sampling import draw_captions, policy, policy_logits
from captionbeam.capmodel.tokenizers import END, PAD, START, UNK
from tests.builders.model.models import make_decoder, make_features, make_tokenizer

CPU = torch.device("cpu")


def batch_of(features, captions=1):
    return Batch(
        features, torch.zeros(len(features), captions, 3, dtype=torch.int64), np.arange(len(features))
    )


def length_reward(rows, tokens):
    """A caption is worth its length, an image its row more."""
    return np.count_nonzero(tokens != PAD, axis=-1) + 100.0 * rows[:, None]


def test_the_greedy_caption_is_that_of_greedy_search():
    tokenizer, features = make_tokenizer(), make_features(4)
    decoder = make_decoder(tokenizer)
    tokens = draw_captions(decoder, features, list("abcd"), samples=2, seed=0, greedy=True)
    greedy = generate(decoder, features, DecodeOptions(method="greedy"), list("abcd"), tokenizer)
    assert [tokenizer.decode(image[2]) for image in tokens] == [captions[0].text for captions in greedy]


DECODERS = (
    {"architecture": "attentive"},
    {
        "architecture": "attentive",
        "attention": "sparsemax",
        "output_layer": "two-stage",
        "output_bottleneck": 3,
    },
    {"architecture": "lstm"},
    {"architecture": "transformer", "embed_dim": 8, "heads": 2},
)
every_decoder = pytest.mark.parametrize("chosen", DECODERS, ids=lambda one: "-".join(map(str, one.values())))


@every_decoder
def test_samples_are_those_of_the_seed_and_the_image_whatever_its_batch_mates(chosen):
    tokenizer, features = make_tokenizer(), make_features(4)
    decoder = make_decoder(tokenizer, **chosen)
    whole = draw_captions(decoder, features, list("abcd"), samples=3, seed=5, greedy=False)
    part = draw_captions(decoder, features[[2, 0]], ["c", "a"], samples=3, seed=5, greedy=False)
    texts = [[tokenizer.decode(row) for row in image] for image in whole]
    assert [[tokenizer.decode(row) for row in image] for image in part] == [texts[2], texts[0]]
    sampled = generate(
        decoder, features, DecodeOptions(method="sample", n_best=3, seed=5), list("abcd"), tokenizer
    )
    assert [sorted(image) for image in texts] == [sorted(one.text for one in image) for image in sampled]


def test_a_caption_that_is_cut_off_has_no_end_and_no_specials_are_drawn():
    decoder = make_decoder(make_tokenizer(words=2, max_length=4))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(0.2)  # nothing is sure
    tokens = draw_captions(decoder, make_features(6), list("abcdef"), 20, seed=1, greedy=True)
    assert tokens.shape == (6, 21, 2)
    assert not np.isin(tokens, (START, UNK)).any()
    ended = (tokens == END).any(-1)
    assert 0 < ended.sum() < ended.size
    for caption, closed in zip(tokens.reshape(-1, 2), ended.ravel(), strict=True):
        words = list(caption).index(END) if closed else 2
        assert (caption[:words] > END).all()
        assert (caption[words + 1 :] == PAD).all()


def all_captions(words, longest):
    """Every caption of at most ``longest`` tokens, END counted, as rows of ids; cut off ones without END."""
    rows = []
    for length in range(longest):
        ending = [END] if length + 1 < longest else []
        for chosen in product(range(4, 4 + words), repeat=length):
            if ending or length == longest - 1:
                rows.append([*chosen, *ending, *[PAD] * (longest - length - len(ending))])
    return torch.tensor(rows)


def whole_space(**chosen):
    """One image, and every caption there is of it."""
    tokenizer = make_tokenizer(words=3, max_length=4)
    decoder = make_decoder(tokenizer, dropout=0.5, **chosen)
    captions = all_captions(3, longest=3)[None]
    return decoder, make_features(1), captions


def batch_for(decoder, features, captions, advantages):
    """The training batch of sampled captions."""
    drawn = SelfCritical(length_reward, captions.shape[1], "mean").prepare(
        decoder, batch_of(features), CPU, 0
    )
    start = torch.full_like(captions[..., :1], START)
    inputs = torch.cat([start, captions[..., :-1]], dim=-1)
    words = int((captions != PAD).sum())
    return drawn._replace(inputs=inputs, targets=captions, words=words, extra=PolicyTargets(advantages, None))


@every_decoder
def test_log_probabilities_are_those_of_the_captions_that_can_be_drawn(chosen):
    """END is part of them, what may not be drawn has none: over all captions there are they add up to one."""
    decoder, features, captions = whole_space(**chosen)
    objective = SelfCritical(length_reward, 2, "mean")
    total = 0.0
    for number in range(captions.shape[1]):
        one = torch.zeros(captions.shape[:2])
        one[0, number] = 1.0
        prepared = batch_for(decoder, features, captions, one)
        total += torch.exp(-objective.loss(decoder, prepared)).item()
    assert total == pytest.approx(1.0, abs=1e-5)


def test_its_expected_gradient_is_that_of_the_expected_reward():
    decoder, features, captions = whole_space()
    objective = SelfCritical(length_reward, 2, "mean")
    rewards = torch.from_numpy(np.random.default_rng(0).random(captions.shape[1])).float()
    logprobs = []
    for number in range(captions.shape[1]):
        one = torch.zeros(captions.shape[:2])
        one[0, number] = 1.0
        logprobs.append(-objective.loss(decoder, batch_for(decoder, features, captions, one)))
    chances = torch.stack(logprobs).exp()
    parameters = [value for _, value in sorted(decoder.named_parameters())]
    expected = torch.autograd.grad(-(chances * rewards).sum(), parameters, allow_unused=True)
    weights = (chances.detach() * (rewards - 0.3))[None]  # a baseline changes nothing in expectation
    found = torch.autograd.grad(
        objective.loss(decoder, batch_for(decoder, features, captions, weights)),
        parameters,
        allow_unused=True,
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_each_sample_is_held_against_the_mean_of_the_others():
    decoder, features = make_decoder(make_tokenizer()), make_features(3)
    prepared = SelfCritical(length_reward, 4, "mean").prepare(decoder, batch_of(features), CPU, 7)
    rewards = length_reward(np.arange(3), prepared.targets.numpy())
    others = [[np.delete(image, k).mean() for k in range(4)] for image in rewards]
    np.testing.assert_allclose(prepared.extra.advantages, rewards - np.array(others), atol=1e-5)
    assert prepared.measures == pytest.approx(
        {"reward": rewards.mean(1).sum(), "baseline": rewards.mean(1).sum()}
    )
    assert not prepared.extra.advantages.requires_grad


@every_decoder
def test_with_grid_dropout_what_it_learns_of_sees_the_grid_that_was_drawn_from(chosen):
    """The log-probabilities are those of the words as they were drawn, from a grid of which some was left out."""
    decoder = make_decoder(make_tokenizer(), dropout=0.9, grid_dropout=0.5, **chosen).train()
    batch, first = batch_of(make_features(3)), torch.get_rng_state()
    objective = SelfCritical(length_reward, 3, "mean", grid_dropout=True)
    prepared = objective.prepare(decoder, batch, CPU, 1)
    seen = torch.get_rng_state()
    prepared = prepared._replace(extra=prepared.extra._replace(advantages=torch.ones(3, 3)))
    assert objective.loss(decoder, prepared).item() == pytest.approx(-walked(decoder, prepared), rel=1e-4)
    assert objective.loss(decoder, prepared) == objective.loss(decoder, prepared)
    assert torch.equal(torch.get_rng_state(), seen)  # the mask is drawn once, by ``prepare``
    whole = prepared._replace(extra=prepared.extra._replace(mask=None))
    assert objective.loss(decoder, whole).item() != pytest.approx(objective.loss(decoder, prepared).item())
    other = objective.prepare(decoder, batch, CPU, 1)
    torch.set_rng_state(first)
    again = objective.prepare(decoder, batch, CPU, 1)
    assert again.extra.mask == prepared.extra.mask != other.extra.mask
    assert torch.equal(again.targets, prepared.targets)
    assert decoder.training


def walked(decoder, prepared):
    """The sum of log p over the targets, walking through them as ``draw_captions`` does."""
    config, total = decoder.config, 0.0
    with torch.no_grad(), policy(decoder, prepared.extra.mask):
        state = decoder.begin(prepared.features)
        state = state.select(torch.zeros(prepared.targets.shape[:2], dtype=torch.int64))
        for words, targets in zip(prepared.inputs.unbind(-1), prepared.targets.unbind(-1), strict=True):
            logits, state, _ = decoder.step(state, words)
            logprobs = policy_logits(logits, decoder, 1.0).log_softmax(-1).gather(-1, targets.unsqueeze(-1))
            total += logprobs[targets.unsqueeze(-1) != config.pad].sum().item()
    return total


def test_beside_cross_entropy_both_losses_are_summed_over_their_own_words():
    decoder = make_decoder(make_tokenizer(), dropout=0.5, grid_dropout=0.5).train()
    drawing, reading = SelfCritical(length_reward, 3, "mean"), CrossEntropy(label_smoothing=0.1)
    people, features = (
        torch.tensor([[[START, 4, END]], [[START, 5, END]], [[START, 6, END]]]),
        make_features(3),
    )
    objective, batch = Mixed(drawing, reading, 0.25), Batch(features, people, np.arange(3))
    prepared = objective.prepare(decoder, batch, CPU, 7)
    alone, words = drawing.prepare(decoder, batch, CPU, 7), reading.prepare(decoder, batch, CPU, 7)
    assert torch.equal(prepared.targets, alone.targets)
    assert (prepared.words, prepared.measures) == (alone.words, alone.measures)
    losses = []
    for _ in range(2):  # people's captions are read with dropout, drawn ones are not
        torch.manual_seed(1)
        found = objective.loss(decoder, prepared)
        torch.manual_seed(1)
        parts = drawing.loss(decoder, alone), reading.loss(decoder, words)
        torch.testing.assert_close(found, parts[0] + 0.25 * parts[1])
        losses.append(found.item())
    assert losses[0] == losses[1] != objective.loss(decoder, prepared).item()


def test_a_rank_without_images_has_a_loss_of_no_weight():
    decoder = make_decoder(make_tokenizer())
    blank = Batch(torch.zeros(1, 6, 5, dtype=torch.float16), torch.tensor([[[START, END]]]), np.empty(0, int))
    objective = SelfCritical(length_reward, 3, "greedy")
    prepared = objective.prepare(decoder, blank, CPU, 1)
    assert (prepared.words, prepared.measures) == (0, {"reward": 0.0, "baseline": 0.0})
    objective.loss(decoder, prepared).backward()
    assert all(value.grad is not None and not value.grad.any() for value in decoder.parameters())


def test_or_against_the_greedy_caption():
    decoder, features = make_decoder(make_tokenizer()), make_features(3)
    prepared = SelfCritical(length_reward, 2, "greedy").prepare(decoder, batch_of(features), CPU, 7)
    tokens = draw_captions(decoder, features, list("012"), samples=2, seed=7, greedy=True)
    rewards = length_reward(np.arange(3), tokens)
    np.testing.assert_allclose(prepared.extra.advantages, rewards[:, :2] - rewards[:, 2:], atol=1e-5)
    assert prepared.measures["baseline"] == pytest.approx(rewards[:, 2].sum())
    assert prepared.targets.shape[1] == 2


def test_a_temperature_is_that_of_logits_divided_by_it():
    """Drawn from, and learned of: the same captions and the same loss as of a decoder with such logits."""
    plain, cooled = (make_decoder(make_tokenizer(), seed=3) for _ in range(2))
    usual = cooled.logits
    cooled.logits = lambda seen: 2 * usual(seen)
    batch = batch_of(make_features(3))
    half, whole = (SelfCritical(length_reward, 3, "mean", temperature) for temperature in (0.5, 1.0))
    ours, theirs = half.prepare(plain, batch, CPU, 1), whole.prepare(cooled, batch, CPU, 1)
    assert torch.equal(ours.targets, theirs.targets)
    assert not torch.equal(ours.targets, whole.prepare(plain, batch, CPU, 1).targets)
    assert half.loss(plain, ours).item() == pytest.approx(whole.loss(cooled, theirs).item(), rel=1e-5)


def test_nothing_is_dropped_while_it_draws_and_learns():
    decoder = make_decoder(make_tokenizer(), dropout=0.9, grid_dropout=0.9).train()
    objective, batch = SelfCritical(length_reward, 3, "mean"), batch_of(make_features(3))
    lessons = [objective.prepare(decoder, batch, CPU, 1) for _ in range(2)]
    losses = [objective.loss(decoder, lesson) for lesson in lessons]
    assert torch.equal(lessons[0].targets, lessons[1].targets)
    assert losses[0] == losses[1]
    assert decoder.training
