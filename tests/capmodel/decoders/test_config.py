"""What is chosen of a decoder: the same for the config, for training and for the command line."""

from dataclasses import fields, replace

import pytest

from captionbeam.capmodel.decoders import DECODER_FIELDS, DecoderConfig, DecoderOptions
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.jobs.options.decoders import DECODER_FLAGS
from captionbeam.schemas.errors import RequestError

FIRST_VERSION = {
    "vocab_size": 50,
    "feature_shape": [8, 8, 2048],
    "embed_dim": 256,
    "hidden_dim": 512,
    "attention_dim": 256,
    "feature_dim": 512,
    "dropout": 0.5,
    "grid_dropout": 0.1,
    "max_length": 64,
    "pad": 0,
    "unk": 1,
    "start": 2,
    "end": 3,
}


def test_each_option_has_a_flag_and_a_place_in_a_training_run():
    assert tuple(DECODER_FLAGS) == DECODER_FIELDS
    ours = {field.name: field.default for field in fields(TrainOptions)}
    assert {name: ours[name] for name in DECODER_FIELDS} == DecoderOptions().decoder()


def test_a_default_config_is_recorded_as_by_the_first_version():
    config = DecoderConfig(50, (8, 8, 2048))
    assert config.to_dict() == FIRST_VERSION
    assert DecoderConfig.from_dict(FIRST_VERSION) == config


def test_a_config_is_read_back_as_it_was_written():
    config = DecoderConfig(50, (8, 8, 2048), hidden_dim=32, dropout=0.25, max_length=30)
    assert DecoderConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["feature_shape"] == [8, 8, 2048]


def test_fields_of_another_version_are_refused():
    values = {**DecoderConfig(50, (8,)).to_dict(), "magic": 2}
    with pytest.raises(RequestError, match=r"decoder config fields is \['magic'\]; expected none beyond"):
        DecoderConfig.from_dict(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "gru"}, "architecture is 'gru'; expected one of attentive, lstm, transformer"),
        (
            {"hidden_dim": 9, "architecture": "transformer"},
            "hidden-dim is 9, which does nothing where architecture is transformer; expected to leave it out, or archi",
        ),
        (
            {"layers": 2},
            "layers is 2, which does nothing where architecture is attentive; expected to leave it out",
        ),
        ({"layers": 0, "architecture": "transformer"}, "layers is 0; expected a positive number"),
        ({"feedforward_dim": 0, "architecture": "transformer"}, "feedforward-dim is 0; expected a positive"),
        (
            {"positions": "x", "architecture": "transformer"},
            "positions is 'x'; expected one of sinusoidal, lea",
        ),
        ({"heads": 3, "architecture": "transformer"}, "embed-dim is 256; expected a multiple of 3 heads"),
        ({"initial_state": "ones"}, "initial-state is 'ones'; expected one of zeros, mean"),
        (
            {"attention": "soft"},
            "attention is 'soft'; expected one of additive, dot, multi-head, hard, sparse",
        ),
        ({"gate": "beta"}, "gate is 'beta'; expected one of vector, scalar, none"),
        ({"heads": 0}, "heads is 0; expected a positive number"),
        (
            {"heads": 8},
            "heads is 8, which does nothing where attention is additive; expected to leave it out, or attention mul",
        ),
        (
            {"hard_temperature": 0.5, "attention": "sparsemax"},
            "hard-temperature is 0.5, which does nothing where attention is sparsemax; expected .* attention hard",
        ),
        (
            {"hard_temperature": 0.0, "attention": "hard"},
            "hard-temperature is 0.0; expected a number above 0",
        ),
        (
            {"hard_temperature": 1e-320, "attention": "hard"},
            "hard-temperature is 1e-320; expected a number above 0, 1e-06 or more",
        ),
        (
            {"attention": "multi-head", "attention_dim": 30},
            "attention-dim is 30; expected a multiple of 4 heads",
        ),
        ({"doubly_stochastic": -1.0}, "doubly-stochastic is -1.0; expected a number of 0 or more"),
        (
            {"doubly_stochastic": 1.0, "attention": "hard"},
            "doubly-stochastic is 1.0; expected 0 with hard attention",
        ),
        ({"output_layer": "half"}, "output-layer is 'half'; expected one of full, two-stage, adaptive"),
        ({"output_bottleneck": 9}, "output-bottleneck is 9, which does nothing where output-layer is full"),
        ({"adaptive_cutoffs": "9"}, "adaptive-cutoffs is '9', which does nothing where output-layer is full"),
        (
            {"output_layer": "two-stage"},
            "output-bottleneck is None; expected a positive number with two stages",
        ),
        (
            {"output_layer": "two-stage", "output_bottleneck": 9, "tie_embeddings": True},
            "embeddings of 256 channels cannot be tied where output-layer is two-stage of 9 channels; expected --no",
        ),
        (
            {"output_layer": "adaptive", "tie_embeddings": True},
            "cannot be tied where output-layer is adaptive",
        ),
        ({"output_layer": "adaptive", "adaptive_cutoffs": "9,x"}, "adaptive-cutoffs is '9,x'; expected ids"),
        (
            {"output_layer": "adaptive", "adaptive_cutoffs": "9,9"},
            "adaptive-cutoffs is '9,9'; expected rising",
        ),
        (
            {"output_layer": "adaptive", "adaptive_cutoffs": "9,50"},
            "adaptive-cutoffs is 50; expected less than the 50 words",
        ),
        (
            {"output_layer": "adaptive", "adaptive_cutoffs": "9,19,29", "embed_dim": 60},
            r"adaptive-cutoffs is \(9, 19, 29\); expected fewer clusters: .* at first 60",
        ),
        ({"state_dropout": 1.0}, "state-dropout is 1.0; expected at least 0 and below 1"),
        ({"embed_dropout": -0.1}, "embed-dropout is -0.1; expected at least 0 and below 1"),
        (
            {"image_as": "start-cell"},
            "image-as is 'start-cell', which does nothing where architecture is attent",
        ),
        (
            {"image_bottleneck": 9},
            "image-bottleneck is 9, which does nothing where architecture is attentive; expected .* lstm",
        ),
        (
            {"architecture": "lstm", "attention": "dot"},
            "attention is 'dot', which does nothing where architecture is lstm; expected .* architecture attentive",
        ),
        (
            {"architecture": "lstm", "feature_dim": 9},
            "feature-dim is 9, which does nothing where architecture is l",
        ),
        (
            {"architecture": "lstm", "gate": "none"},
            "gate is 'none', which does nothing where architecture is lstm",
        ),
        (
            {"architecture": "lstm", "doubly_stochastic": 1.0},
            "doubly-stochastic is 1.0, which does nothing where architecture is lstm",
        ),
        (
            {"architecture": "lstm", "image_as": "word"},
            "image-as is 'word'; expected one of first-input, start-s",
        ),
        (
            {"architecture": "lstm", "image_activation": "tanh"},
            "image-activation is 'tanh'; expected one of none, elu",
        ),
        (
            {"architecture": "lstm", "image_bottleneck": 0},
            "image-bottleneck is 0; expected a positive number",
        ),
        ({"hidden_dim": 0}, "hidden-dim is 0; expected a positive number"),
        ({"feature_shape": (8, 8)}, r"feature-shape is \(8, 8\); expected \[H, W, C\] or \[C\]"),
        ({"dropout": 1.0}, "dropout is 1.0; expected at least 0 and below 1"),
        ({"max_length": 2}, r"max-length is 2; expected 3 or more"),
        ({"end": 2}, r"pad, unk, start, end is \(0, 1, 2, 2\); expected four ids"),
        ({"vocab_size": 3}, "expected four ids of a vocabulary of 3"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(RequestError, match=message):
        replace(DecoderConfig(50, (8, 8, 16)), **change)
