"""What each epoch reads: how many images a step, which of their captions, in which order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.data.dataset import Data
from captionbeam.capmodel.data.epochs import Epochs
from tests.builders.model.training import StopAfter, make_data, tiny_options, train_alone

ALL = {"captions_per_image": 1, "bucket_by_length": True, "steps_per_epoch": 3, "accumulate": 2, "ema": 0.9}
ALL |= {"batch_growth": 2.0, "batch_max": 8, "batch_size": 4, "weight_decay": 0.01, "epochs": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=40, val=4, each=4)


@pytest.fixture(scope="module")
def reader(data, tmp_path_factory):
    return Data.open(tiny_options(data, tmp_path_factory.mktemp("opened"))).train


@pytest.fixture(scope="module")
def make(data, reader, tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")

    def epochs(rank=0, world=1, **chosen):
        return Epochs(tiny_options(data, folder, **chosen), reader, rank, world)

    return epochs


def images(parts):
    return np.concatenate([part.samples for part in parts]).tolist()


def captions(parts):
    """``{image: its captions}``."""
    return {int(image): some.tolist() for part in parts for image, some in zip(*part, strict=True)}


def test_without_options_every_image_comes_with_all_its_captions(make):
    parts = make().parts(0, 0, 0)
    assert sorted(images(parts)) == list(range(40))
    assert [(len(part.samples), part.captions) for part in parts] == [(8, None)] * 5


@given(seed=st.integers(0, 9), epoch=st.integers(0, 9), each=st.integers(1, 6))
def test_captions_are_drawn_by_seed_epoch_and_image_alone(make, seed, epoch, each):
    alone = captions(make(captions_per_image=each, seed=seed).parts(epoch, epoch, 0))
    ranks = [make(rank, 2, captions_per_image=each, seed=seed, batch_size=4) for rank in (0, 1)]
    assert alone == {k: v for rank in ranks for k, v in captions(rank.parts(epoch, epoch, 0)).items()}
    for some in alone.values():
        assert len({*some}) == len(some) == min(each, 4)
        assert sorted(some) == some
        assert {*some} <= {0, 1, 2, 3}


def test_an_epoch_of_some_steps_goes_on_where_the_one_before_ended(make):
    epochs = make(steps_per_epoch=3, batch_size=8)
    several = [images(epochs.parts(epoch, epoch, 0)) for epoch in range(4)]
    assert [len(some) for some in several] == [24] * 4
    stream = [image for some in several for image in some]
    assert sorted(stream[:40]) == sorted(stream[40:80]) == list(range(40))
    assert images(epochs.parts(5, 1, 24)) == several[2]  # of a phase that began after 24 images


def test_steps_grow_by_their_factor_up_to_the_most(make):
    epochs = make(batch_size=8, batch_growth=1.5, batch_growth_epochs=2, batch_max=16, epochs=9)
    assert [epochs.images_per_step(age) for age in range(8)] == [8, 8, 12, 12, 16, 16, 16, 16]
    assert [epochs.steps(age) for age in range(5)] == [5, 5, 4, 4, 3]
    assert epochs.steps_until(5) == 21
    assert [len(part.samples) for part in epochs.parts(4, 4, 0)] == [13, 13, 14]
    shared = make(0, 2, batch_size=4, batch_growth=1.5, batch_growth_epochs=2, batch_max=8, epochs=9)
    assert [shared.images_per_step(age) for age in range(8)] == [8, 8, 12, 12, 16, 16, 16, 16]


def test_in_buckets_steps_have_captions_about_as_long_and_the_same_images(make, reader):
    plain, bucketed = make(captions_per_image=1, batch_size=4), make(
        captions_per_image=1, batch_size=4, bucket_by_length=True
    )  # fmt: skip
    ours, theirs = plain.parts(2, 2, 0), bucketed.parts(2, 2, 0)
    assert captions(ours) == captions(theirs)
    assert empty(reader, theirs) < 0.4 * empty(reader, ours)
    assert empty(reader, theirs) < 0.06


def empty(reader, parts):
    """The share of a batch that is padding."""
    tokens = [reader.tokens.padded(reader.samples.row[part.samples], part.captions) for part in parts]
    return sum(int((one == 0).sum()) for one in tokens) / sum(one.numel() for one in tokens)


def parameters(trainer):
    return {name: value.detach().clone() for name, value in trainer.decoder.named_parameters()}


def test_accumulated_batches_are_one_of_all_their_images(data, tmp_path):
    exact = {"dropout": 0.0, "grid_dropout": 0.0, "precision": "fp32", "epochs": 1}
    whole = train_alone(tiny_options(data, tmp_path / "whole", batch_size=12, **exact))[0]
    parts = train_alone(tiny_options(data, tmp_path / "parts", batch_size=4, accumulate=3, **exact))[0]
    assert whole.identity() == parts.identity()
    for name, value in parameters(whole).items():
        torch.testing.assert_close(parameters(parts)[name], value, rtol=1e-4, atol=1e-5)


def test_with_all_options_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(data, tmp_path):
    """Three steps an epoch and one batch of validation: stops in the middle of both epochs and between them."""
    unbroken, events = train_alone(tiny_options(data, tmp_path / "unbroken", precision="fp32", **ALL))
    read = [event["images"] for event in events if event["event"] == "epoch"]
    assert read == [3 * 8, 3 * 8 + 3 * 16]
    options = tiny_options(data, tmp_path / "broken", precision="fp32", **ALL)
    for times in (1, 2, 0, 2):
        assert train_alone(options, StopAfter(times))[1][-1]["event"] == "stopped"
    ours, theirs = parameters(train_alone(options)[0]), parameters(unbroken)
    assert all(torch.equal(ours[name], theirs[name]) for name in {*ours, *theirs})


def test_every_caption_has_its_turn(make):
    epochs = make(captions_per_image=1)
    drawn = [captions(epochs.parts(epoch, epoch, 0)) for epoch in range(60)]
    assert all({some[image][0] for some in drawn} == {0, 1, 2, 3} for image in range(40))
