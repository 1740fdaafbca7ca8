"""How many beams write, and with which penalty: as named, else as the bundle was scored."""

from __future__ import annotations

import pytest

from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.jobs.cli import parse
from captionbeam.jobs.options.decoding import decode_options
from tests.builders.model.models import make_bundle

BEAM = DecodeOptions(beam=4, length_penalty=0.8)
GREEDY = DecodeOptions(method="greedy")


@pytest.fixture
def settled(tmp_path):
    """The decoding that a command line asks of a bundle, or of another captioner where there is none."""

    def settle(writing: DecodeOptions | None, *words: str) -> DecodeOptions:
        url = str(tmp_path / "bundle")
        make_bundle(writing=writing.to_dict() if writing else {}).save(url)
        return decode_options(parse(["caption", "photos", "--bundle", url, *words]), url)

    return settle


@pytest.mark.parametrize(
    ("writing", "words", "expected"),
    [
        (BEAM, [], BEAM),
        (BEAM, ["--beam", "5"], DecodeOptions(beam=5, length_penalty=0.8)),
        (BEAM, ["--beam", "1"], DecodeOptions(beam=1)),
        (BEAM, ["--length-penalty", "0"], DecodeOptions(beam=4)),
        (
            BEAM,
            ["--length-penalty", "2", "--n-best", "4"],
            DecodeOptions(beam=4, length_penalty=2.0, n_best=4),
        ),
        (BEAM, ["--method", "greedy"], GREEDY),
        (BEAM, ["--method", "sample"], DecodeOptions(method="sample")),
        (GREEDY, [], DecodeOptions(beam=3)),
        (GREEDY, ["--length-penalty", "1"], DecodeOptions(beam=3, length_penalty=1.0)),
        (None, [], DecodeOptions(beam=3)),
    ],
)
def test_what_is_not_named_is_as_the_bundle_was_scored(settled, writing, words, expected):
    assert settled(writing, *words).to_dict() == expected.to_dict()


def test_another_captioner_has_three_beams():
    assert decode_options(parse(["caption", "photos", "--captioner", "hf:blip"]), None) == DecodeOptions(
        beam=3
    )
