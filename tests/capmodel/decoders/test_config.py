"""What is chosen of a decoder: the same for the config, for training and for the command line."""

from dataclasses import fields, replace

import pytest

from captionbeam.capmodel.decoders import DECODER_FIELDS, DecoderConfig, DecoderOptions
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.schemas.errors import RequestError


def test_each_option_has_a_place_in_a_training_run():
    ours = {field.name: field.default for field in fields(TrainOptions)}
    assert {name: ours[name] for name in DECODER_FIELDS} == DecoderOptions().decoder()


def test_a_default_config_is_recorded_without_its_defaults():
    assert DecoderConfig(50, (8, 8, 2048)).to_dict() == {"vocab_size": 50, "feature_shape": [8, 8, 2048]}


def test_fields_of_another_version_are_refused():
    values = {**DecoderConfig(50, (8,)).to_dict(), "magic": 2}
    with pytest.raises(RequestError, match="DecoderConfig has magic, which this captionbeam does not know"):
        DecoderConfig.from_dict(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "gru"}, "architecture is 'gru'; expected one of attentive, lstm, transformer"),
        ({"heads": 3, "architecture": "transformer"}, "embed-dim is 256; expected a multiple of 3 heads"),
        (
            {"doubly_stochastic": 1.0, "attention": "hard"},
            "doubly-stochastic is 1.0; expected 0 with hard attention",
        ),
        (
            {"output_layer": "two-stage", "output_bottleneck": 9, "tie_embeddings": True},
            "embeddings of 256 channels cannot be tied where --output-layer is two-stage of 9 channels; expected --no",
        ),
        (
            {"output_layer": "adaptive", "adaptive_cutoffs": "9,x"},
            "adaptive-cutoffs is '9,x'; expected rising ids",
        ),
        (
            {"output_layer": "adaptive", "adaptive_cutoffs": "9,19,29", "embed_dim": 60},
            r"adaptive-cutoffs is \(9, 19, 29\); expected fewer clusters: .* at first 60",
        ),
        ({"feature_shape": (8, 8)}, r"feature-shape is \(8, 8\); expected \[H, W, C\] or \[C\]"),
        ({"end": 2}, r"pad, unk, start, end is \(0, 1, 2, 2\); expected four ids"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(RequestError, match=message):
        replace(DecoderConfig(50, (8, 8, 16)), **change)
