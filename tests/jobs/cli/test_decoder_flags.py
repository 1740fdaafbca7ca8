"""The decoder's options on the command line: refused, told to other machines, trained with."""

import pytest

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.decoders import DECODER_FIELDS
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.capmodel.training.worker import save_bundle
from captionbeam.jobs.cli import main, parse
from captionbeam.jobs.submit.submit import words_of
from tests.builders.model.training import make_data, tiny_options, train_alone

TOLD = {
    "attention": {"attention": "multi-head", "heads": 2, "attention_dim": 6, "feature_dim": 8},
    "two-stage": {"output_layer": "two-stage", "output_bottleneck": 12, "tie_embeddings": True},
    "untied": {"tie_embeddings": False, "embed_dropout": 0.25, "state_dropout": 0.0},
    "adaptive": {"output_layer": "adaptive", "adaptive_cutoffs": "8,12", "embed_dim": 16},
    "lstm": {"architecture": "lstm", "attention_dim": 256, "feature_dim": 512, "embed_dim": 12,
             "image_as": "start-state", "image_bottleneck": 4, "image_activation": "elu"},
    "transformer": {"architecture": "transformer", "heads": 3, "layers": 2, "feedforward_dim": 20,
                    "positions": "learned"},
    "hard": {"attention": "hard", "hard_temperature": 0.5, "gate": "none"},
}  # fmt: skip
each_told = pytest.mark.parametrize("chosen", TOLD.values(), ids=TOLD)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=12, val=2)


@each_told
def test_what_is_chosen_here_is_what_other_machines_are_told(data, tmp_path, chosen):
    options = tiny_options(data, tmp_path, **chosen)
    read = parse(words_of(options, ["features", "tokens", "output", "checkpoints", "logs"])[1:])
    assert TrainOptions(**{"embed_dim": 256, **drop_none(read.chosen())}) == options


def drop_none(values):
    return {name: value for name, value in values.items() if value is not None}


@each_told
def test_a_run_learns_with_it_and_its_bundle_has_it(data, tmp_path, chosen):
    trainer, events = train_alone(tiny_options(data, tmp_path, epochs=2, learning_rate=0.02, **chosen))
    epochs = [event for event in events if event["event"] == "epoch"]
    assert epochs[1]["train_loss"] < epochs[0]["train_loss"]
    save_bundle(trainer, epochs)
    config = Bundle.load(str(tmp_path / "bundle")).config
    assert {name: getattr(config, name) for name in chosen} == chosen
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert {name: f" {name} {value}" in card for name, value in chosen.items()} == {
        name: config.uses(name) for name in chosen
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "--output-layer adaptive --tie-embeddings",
            "cannot be tied where --output-layer is adaptive; expected",
        ),
        ("--output-layer two-stage", "output-bottleneck is None; expected a positive number"),
        (
            "--output-layer adaptive --adaptive-cutoffs 10,5000",
            "adaptive-cutoffs is 5000; expected less than",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(data, tmp_path, capsys, words, sentence):
    places = ["--features", data["features"], "--tokens", data["tokens"], "--output", str(tmp_path / "b")]
    assert main(["train", *places, *words.split()]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_every_option_of_the_decoder(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    said = capsys.readouterr().out
    flags = [f"--{name.replace('_', '-')} " for name in DECODER_FIELDS]
    assert [flag for flag in flags if flag not in said.replace("\n", " ")] == []
