"""Presets and recipes: files of flags that exist, build the decoder they name, and yield to the user's own."""

from __future__ import annotations

import json

import pytest

from captionbeam.capmodel.decoders import DecoderConfig, make_decoder
from captionbeam.capmodel.training.config import TrainingOptions, TrainOptions
from captionbeam.jobs.cli import main, parse
from captionbeam.jobs.presets import FOLDERS, flags_of, known
from captionbeam.jobs.train import Train
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import flag_of, options_of
from tests.builders.model.training import SMALL, make_data
from tests.builders.running.commands import flags

FILES = [(kind, name) for kind in FOLDERS for name in known(kind)]
PLACES = ["--features", "f", "--tokens", "t", "--output", "o"]
FLAGS = {flag_of(field.name) for field, _ in options_of(TrainingOptions)}
DECODERS = {
    "soft-attention": {"architecture": "attentive", "attention": "additive", "gate": "scalar", "initial_state": "mean",
                       "doubly_stochastic": 1},
    "hard-attention": {"architecture": "attentive", "attention": "hard", "gate": "scalar", "initial_state": "mean",
                       "doubly_stochastic": 0},
    "two-stage": {"architecture": "attentive", "output_layer": "two-stage", "output_bottleneck": 256},
    "show-and-tell": {"architecture": "lstm", "image_as": "first-input", "embed_dim": 512, "hidden_dim": 512},
    "small-lstm": {"architecture": "lstm", "image_as": "start-state", "image_bottleneck": 120, "embed_dim": 100,
                   "hidden_dim": 300, "output_layer": "two-stage", "output_bottleneck": 120},
}  # fmt: skip


def decoder_options(words):
    return parse(["train", *PLACES, *words]).chosen()


def config_of(words, shape=(2, 2, 3)):
    places = {"snapshot": 1, "checkpoints": "c", "logs": "l"}
    given = {name: value for name, value in decoder_options(words).items() if value is not None}
    return DecoderConfig(vocab_size=20, feature_shape=shape, **TrainOptions(**{**given, **places}).decoder())


def test_presets_are_the_classics():
    assert known("preset") == sorted(DECODERS)


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_every_file_holds_options_of_train_that_change_something(kind, name):
    """Flags of the decoder and of training alone, each once: no place, no machine, nothing that is not there."""
    given = [word for word in flags_of(kind, name) if word.startswith("--")]
    assert set(given) <= FLAGS - {"--device", "--threads", "--max-missing", "--seed"}
    assert len(given) == len(set(given))


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_every_file_builds_the_decoder_that_it_names(kind, name):
    config = config_of([f"--{kind}", name])
    make_decoder(config)
    said = {key: getattr(config, key) for key in DECODERS.get(name, {})}
    assert said == DECODERS.get(name, {})


@pytest.mark.parametrize("order", [1, -1])
def test_the_users_own_flags_win_wherever_they_stand(order):
    words = [["--preset", "soft-attention"], ["--doubly-stochastic", "0.5"]][::order]
    options = decoder_options([word for pair in words for word in pair])
    assert (options["doubly_stochastic"], options["gate"]) == (0.5, "scalar")


def test_what_contradicts_the_users_own_flags_is_left_out():
    chosen = decoder_options(["--preset", "soft-attention", "--attention", "hard"])
    assert (chosen["attention"], chosen["doubly_stochastic"], chosen["gate"]) == ("hard", 0, "scalar")


def test_python_has_them_too():
    places = {"features": "f", "tokens": "t", "output": "o"}
    assert Train(preset="soft-attention", **places) == Train.from_preset("soft-attention", **places)
    train = Train.from_preset("soft-attention", **places, gate="none")
    assert (train.gate, train.initial_state, train.preset) == ("none", "mean", "soft-attention")


def test_word_vectors_settle_their_width():
    assert decoder_options(["--preset", "small-lstm", "--embeddings", "e"])["embed_dim"] is None


@pytest.mark.parametrize(
    ("words", "shape", "sentence"),
    [
        ("--preset hard-attention --self-critical-epochs 1", (2, 2, 3),
         "(with --preset hard-attention)"),
        ("--preset small-lstm --dropout 1", (2, 2, 3), "at least 0 and below 1"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_preset_that_it_is_about(tmp_path, capsys, words, shape, sentence):
    data = make_data(tmp_path, train=8, val=2, shape=shape)
    places = [word for name, url in data.items() for word in (f"--{name}", url)]
    assert main(["train", *places, "--output", str(tmp_path / "b"), "--dry-run", *words.split()]) == 2
    assert capsys.readouterr().err.strip().endswith(sentence)


@pytest.mark.parametrize("kind", FOLDERS)
def test_an_unknown_name_is_told_the_known_ones(kind):
    with pytest.raises(RequestError) as refused:
        parse(["train", *PLACES, f"--{kind}", "no-such"])
    assert str(refused.value) == f"there is no {kind} 'no-such'; expected one of {', '.join(known(kind))}"


@pytest.mark.parametrize("name", ["../presets/soft-attention", "", "soft-attention.flags"])
def test_a_name_is_no_path(name):
    with pytest.raises(RequestError, match="there is no preset"):
        parse(["train", *PLACES, "--preset", name])


def test_help_lists_them(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{', '.join(known(kind))}" in said for kind in FOLDERS)


def test_the_run_records_what_a_preset_stands_for(tmp_path, capsys):
    """The workers are started with the options themselves, so nothing depends on the file later."""
    data = make_data(tmp_path, train=8, val=2)
    places = [word for name, url in data.items() for word in (f"--{name}", url)]
    words = [
        "train",
        *places,
        "--output",
        str(tmp_path / "bundle"),
        "--preset",
        "soft-attention",
        "--dry-run",
    ]
    assert main([*words, *flags(**SMALL)]) == 0
    said = capsys.readouterr().out
    record = json.loads(said[said.index("{") : said.rindex("}") + 1])
    expected = {"attention": "additive", "gate": "scalar", "doubly_stochastic": 1.0, "hidden_dim": 16}
    assert {name: record[name] for name in expected} == expected
