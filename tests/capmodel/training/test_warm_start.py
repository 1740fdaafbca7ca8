"""Runs that start from a bundle's weights: from which they may, what is kept, and what tells them from others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.training.checkpoints import Checkpoints
from captionbeam.capmodel.training.optimizer import parameters_of
from captionbeam.capmodel.training.request import resolve_options
from captionbeam.capmodel.training.worker import save_bundle
from captionbeam.schemas.errors import BundleError, RequestError
from tests.builders.model.training import (
    StopAfter,
    make_data,
    make_tokens,
    numbered_captions,
    tiny_options,
    train_alone,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=24, val=3)


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """The options, the trainer and the events of a run whose bundle others start from."""
    folder = tmp_path_factory.mktemp("first")
    options = tiny_options(data, folder, precision="fp32", learning_rate=0.03, epochs=4)
    trainer, events = train_alone(options)
    epochs = [event for event in events if event["event"] == "epoch"]
    save_bundle(trainer, epochs)
    return options, trainer, epochs


def started(data, folder, first, **chosen):
    return tiny_options(data, folder, precision="fp32", init=first[0].output, **chosen)


def epochs_of(events):
    return [event for event in events if event["event"] == "epoch"]


def test_the_second_phase_alone(data, first, tmp_path):
    options = started(data, tmp_path, first, epochs=0, self_critical_epochs=2)
    _, events = train_alone(options)
    epochs = epochs_of(events)
    assert [(one["epoch"], one["phase"]) for one in epochs] == [
        (0, "init"), (1, "self-critical"), (2, "self-critical"),
    ]  # fmt: skip
    best = max(first[2], key=lambda one: (one["CIDEr"], -one["val_loss"]))
    assert (epochs[0]["CIDEr"], epochs[0]["val_loss"]) == (best["CIDEr"], best["val_loss"])
    assert events[0]["epochs"] == 2


def test_stopped_before_or_after_its_first_scores_it_ends_the_same(data, first, tmp_path):
    chosen = {"epochs": 1, "self_critical_epochs": 1}
    whole, _ = train_alone(started(data, tmp_path / "whole", first, **chosen))
    options = started(data, tmp_path / "broken", first, **chosen)
    for times in (0, 1, 3):
        assert train_alone(options, StopAfter(times))[1][-1]["event"] == "stopped"
    broken, _ = train_alone(options)
    ours, theirs = parameters_of(broken.decoder), parameters_of(whole.decoder)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    record = Checkpoints(options.checkpoints, {}).record()
    history = record["position"]["history"]
    assert [one["epoch"] for one in history] == [0, 1, 2]
    assert record["identity"]["init"] == Bundle.load(first[0].output).sha256


def test_a_run_from_a_bundle_is_another_than_one_from_fresh_weights(data, first, tmp_path):
    train_alone(started(data, tmp_path, first, epochs=2), StopAfter(4))
    with pytest.raises(
        RequestError, match=r"the checkpoints in .* are of a run with init [0-9a-f]{12}, not none"
    ):
        train_alone(tiny_options(data, tmp_path, precision="fp32", epochs=2))


def wanted(options):
    return json.loads(options.to_json())


def test_another_decoder_is_refused(data, first, tmp_path):
    options = started(data, tmp_path, first, gate="none")
    sentence = "whose decoder has gate 'vector', not 'none'; expected the same options of the decoder"
    with pytest.raises(RequestError, match=sentence):
        resolve_options(wanted(options), 1)
    with pytest.raises(RequestError, match=sentence):
        train_alone(options)


def test_other_features_and_other_tokens_are_refused(data, first, tmp_path):
    bundle = Bundle.load(first[0].output)
    other = replace(bundle, features_fingerprint="f" * 32, sha256="").save(str(tmp_path / "other"))
    with pytest.raises(
        RequestError, match=r"init is .*, a bundle for features f+; expected one for [0-9a-f]+"
    ):
        resolve_options(wanted(replace(started(data, tmp_path, first), init=other)), 1)
    make_tokens(str(tmp_path / "tokens"), numbered_captions(24, 3), max_length=12)
    tokens = {**data, "tokens": str(tmp_path / "tokens")}
    with pytest.raises(
        RequestError, match=r"init is .*, a bundle with tokenizer [0-9a-f]+; expected [0-9a-f]+"
    ):
        resolve_options(wanted(started(tokens, tmp_path, first)), 1)
    with pytest.raises(BundleError, match="is not a bundle"):
        resolve_options(wanted(replace(started(data, tmp_path, first), init=str(tmp_path))), 1)


def test_damaged_weights_are_refused_before_anything_starts(data, first, tmp_path):
    copy = Path(shutil.copytree(first[0].output, tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(
        BundleError, match=r"model.safetensors of the bundle .* has SHA-256 [0-9a-f]+; expected"
    ):
        resolve_options(wanted(replace(started(data, tmp_path, first), init=str(copy))), 1, ())


def test_what_it_started_from_stays_the_best_where_nothing_is_better(data, first, tmp_path):
    spoiled = {"epochs": 1, "learning_rate": 5.0, "clip": 1e9}
    trainer, events = train_alone(started(data, tmp_path, first, **spoiled))
    assert epochs_of(events)[-1]["best"] == 0
    ours, theirs = parameters_of(trainer.decoder), parameters_of(Bundle.load(first[0].output).decoder)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_restart_takes_no_bundle_away_that_it_starts_from(data, first, tmp_path):
    (tmp_path / "same").symlink_to(first[0].output)
    same = replace(started(data, tmp_path, first, restart=True), output=f"file://{tmp_path / 'same'}")
    with pytest.raises(
        RequestError, match=r"init is .*, the output, which --restart takes away; expected another"
    ):
        resolve_options(wanted(same), 1)
