"""Captions that say what an image's other captions say weigh more in cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.data.loader import Batch
from captionbeam.capmodel.metrics.cider import CiderReferences, _similarity
from captionbeam.capmodel.objectives.objective import CrossEntropy
from captionbeam.capmodel.self_critical.rewards import consensus_weights
from captionbeam.capmodel.self_critical.rewards.consensus import consensus
from captionbeam.capmodel.tokenizers import END, PAD, START
from captionbeam.capmodel.training.optimizer import parameters_of
from tests.builders.data.stores import make_features
from tests.builders.model.models import make_decoder, make_tokenizer
from tests.builders.model.models import make_features as random_features
from tests.builders.model.training import make_tokens, tiny_options, train_alone

CPU = torch.device("cpu")
TEXTS = [["a dog runs", "a dog runs on grass", "two cats"], ["two cats sleep"], ["a", "dog"]]


def with_ids_from_nought(images):
    ids = {}
    return [[[ids.setdefault(word, len(ids)) for word in one] for one in image] for image in images]


few = st.lists(st.integers(0, 5), max_size=9)


@given(st.lists(st.lists(few, min_size=1, max_size=4), min_size=1, max_size=5))
def test_it_is_cider_d_against_the_other_captions(images):
    """With the document frequencies of all; not a number where there are no others."""
    references = with_ids_from_nought(images)
    found, slow = (
        consensus(references),
        CiderReferences({str(n): image for n, image in enumerate(references)}),
    )
    assert found.shape == (len(images), max(map(len, images)))
    for image, row in enumerate(found):
        vectors = slow._vectors[str(image)]
        for which in range(len(row)):
            others = [one for place, one in enumerate(vectors) if place != which]
            if which >= len(vectors) or not others:
                assert np.isnan(row[which])
                continue
            scores = [_similarity(vectors[which], other, True) for other in others]
            assert row[which] == pytest.approx(10 / 4 * sum(scores) / len(others), abs=1e-9)


def test_the_weights_of_an_image_have_a_mean_of_one():
    weights = consensus_weights(TEXTS, make_tokenizer(), 1.0)
    assert weights.dtype == np.float32
    assert weights[0].sum() == pytest.approx(3)
    assert weights[0, 0] > 1 > weights[0, 2] == 0
    assert weights[1].tolist() == [1, 0, 0]  # an only caption
    assert weights[2].tolist() == [1, 1, 0]  # captions that have nothing in common


DECODERS = (
    {},
    {"architecture": "lstm"},
    {"architecture": "transformer"},
    {"output_layer": "adaptive", "embed_dim": 16},
)


def people():
    """Three images, two captions each."""
    return torch.tensor([[[START, 4, 5, END], [START, 6, END, PAD]]] * 3), random_features(3)


@pytest.mark.parametrize("chosen", DECODERS, ids=str)
def test_a_caption_s_loss_is_multiplied_by_its_weight(chosen):
    decoder, (tokens, features) = make_decoder(make_tokenizer(), **chosen), people()
    weights = np.random.default_rng(0).random((7, 2), np.float32)
    rows = np.array([5, 0, 3])
    objective = CrossEntropy(weights=weights)
    prepared = objective.prepare(decoder, Batch(features, tokens, rows), CPU, 0)
    assert prepared.words == 15
    alone = CrossEntropy()
    expected = 0.0
    for image, row in enumerate(rows):
        for which in (0, 1):
            one = Batch(features[image : image + 1], tokens[image : image + 1, which : which + 1], rows[:1])
            expected += weights[row, which] * alone.loss(decoder, alone.prepare(decoder, one, CPU, 0)).item()
    assert objective.loss(decoder, prepared).item() == pytest.approx(expected, rel=1e-4)


def test_a_rank_without_images_has_a_loss_of_no_weight():
    blank = Batch(torch.zeros(1, 6, 5, dtype=torch.float16), torch.tensor([[[START, END]]]), np.empty(0, int))
    decoder, objective = make_decoder(make_tokenizer()), CrossEntropy(weights=np.ones((4, 3), np.float32))
    prepared = objective.prepare(decoder, blank, CPU, 0)
    assert prepared.words == 0
    objective.loss(decoder, prepared).backward()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    captions = {
        f"{n:02d}.jpg": ("val" if n < 3 else "train", [f"dog {n} runs", f"dog {n} runs on grass", "two cats"])
        for n in range(19)
    }
    make_features(str(folder / "features"), list(captions), shape=(2, 2, 3), shard_size=8)
    make_tokens(str(folder / "tokens"), captions)
    return {"features": str(folder / "features"), "tokens": str(folder / "tokens")}


def test_a_run_heeds_it(data, tmp_path):
    """With all captions of an image, and with one drawn of them."""
    found = []
    for number, chosen in enumerate(({}, {"consensus": 1.0}, {"consensus": 1.0, "captions_per_image": 2})):
        options = tiny_options(data, tmp_path / str(number), epochs=1, precision="fp32", **chosen)
        found.append(parameters_of(train_alone(options)[0].decoder))
    for one, other in ((0, 1), (1, 2)):
        assert any(not np.array_equal(found[one][name], found[other][name]) for name in found[0])


def test_a_higher_power_sets_them_further_apart():
    plain, squared = (consensus_weights(TEXTS, make_tokenizer(), power) for power in (1.0, 2.0))
    both = plain[0] ** 2
    np.testing.assert_allclose(squared[0], 3 * both / both.sum(), rtol=1e-6)
