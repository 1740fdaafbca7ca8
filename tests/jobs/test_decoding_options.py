"""How captions are written: what the flags become, and what is refused because it would do nothing."""

import pytest

from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.jobs.cli import parse
from captionbeam.jobs.options.decoding import decode_options
from captionbeam.schemas.errors import RequestError


def decoded(*flags):
    options, _ = parse(["caption", "x.jpg", "--captioner", "hf:x", *flags])
    return decode_options(options)


def test_without_flags_the_defaults_are_those_of_the_options():
    assert decoded() == DecodeOptions()
    assert decoded("--seed", "7") == DecodeOptions(seed=7)


def test_every_flag_becomes_its_option():
    assert decoded(
        *("--beam", "6", "--n-best", "2", "--length-penalty", "0.6", "--length-formula", "gnmt"),
        *("--beam-groups", "3", "--diversity", "0.5", "--no-repeat-ngram", "3"),
    ) == DecodeOptions(
        beam=6,
        n_best=2,
        length_penalty=0.6,
        length_formula="gnmt",
        beam_groups=3,
        diversity=0.5,
        no_repeat_ngram=3,
    )
    assert decoded(
        *("--method", "sample", "--temperature", "2", "--temperature-convention", "probability-power"),
        *("--top-k", "9", "--top-p", "0.9", "--max-length", "20", "--prefix", "a", "--allow-unk"),
    ) == DecodeOptions(
        method="sample",
        temperature=2,
        temperature_convention="probability-power",
        top_k=9,
        top_p=0.9,
        max_length=20,
        prefix="a",
        allow_unk=True,
    )


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--temperature", "3"], "--temperature"),
        (["--top-p", "0.5"], "--top-p"),
        (["--top-p", "0.5", "--temperature", "3"], "--temperature and --top-p"),
    ],
)
def test_of_one_word_nothing_is_drawn(flags, named):
    with pytest.raises(
        RequestError, match=f"^{named} would do nothing with --top-k 1, which leaves one word"
    ):
        decoded("--method", "sample", "--top-k", "1", *flags)
    assert decoded("--method", "sample", "--top-k", "1").top_k == 1


@pytest.mark.parametrize(
    ("method", "flags", "named"),
    [
        ("greedy", ["--length-penalty", "1", "--beam-groups", "2"], "--length-penalty and --beam-groups"),
        ("sample", ["--diversity", "1"], "--diversity"),
        ("sample", ["--length-formula", "gnmt"], "--length-formula"),
        ("beam", ["--temperature-convention", "probability-power"], "--temperature-convention"),
        ("greedy", ["--temperature", "2"], "--temperature"),
    ],
)
def test_what_another_method_needs_is_refused(method, flags, named):
    with pytest.raises(
        RequestError, match=f"{named} would do nothing with --method {method}; expected another"
    ):
        decoded("--method", method, *flags)
