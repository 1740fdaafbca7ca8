"""How captions are generated: what the flags become, and what is refused."""

import re

import pytest

from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.jobs.caption import Caption
from captionbeam.jobs.cli import parse
from captionbeam.jobs.options.decoding import decode_options
from captionbeam.schemas.errors import CaptionbeamError, RequestError
from tests.builders.running.commands import flags


def decoded(*flags):
    return decode_options(parse(["caption", "x.jpg", "--captioner", "hf:x", *flags]), None)


BEAM = {"beam": 6, "n_best": 2, "length_penalty": 0.6, "length_formula": "gnmt", "beam_groups": 3, "diversity": 0.5,
        "no_repeat_ngram": 3}  # fmt: skip
SAMPLE = {"method": "sample", "temperature": 2, "temperature_convention": "probability-power", "top_k": 9,
          "top_p": 0.9, "max_length": 20, "prefix": "a", "seed": 7}  # fmt: skip


@pytest.mark.parametrize("options", [{}, BEAM, SAMPLE], ids=["defaults", "beam", "sample"])
def test_every_flag_becomes_its_option(options):
    assert decoded(*flags(**options)) == DecodeOptions(**options)
    assert decoded("--allow-unk").allow_unk


def test_an_option_of_another_method_changes_nothing():
    greedy = ("--method", "greedy")
    assert (
        decoded(*greedy).to_dict() == decoded(*greedy, "--temperature", "2", "--beam-groups", "2").to_dict()
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--beam", "0"], "--beam is 0; expected a whole number from 1 to 1,000"),
        (["--beam", "4", "--beam-groups", "3"], "beam-groups is 3; expected a divisor of the beam, 4"),
        (["--beam", "2", "--n-best", "3"], "n-best is 3; expected at most 2 for beam"),
        (["--method", "nucleus"], "--method is 'nucleus'; expected one of greedy, beam, sample"),
        (["--top-p", "0"], "--top-p is 0.0; expected a number above 0 and at most 1"),
    ],
)
def test_what_cannot_be_done_is_refused(flags, said):
    with pytest.raises(RequestError, match=f"^{re.escape(said)}$"):
        decoded(*flags)


def test_captions_that_are_printed_have_no_dry_run():
    with pytest.raises(RequestError, match="--dry-run needs --output"):
        parse(["caption", "x.jpg", "--bundle", "bundle", "--dry-run"]).run()


def test_one_flag_for_beam_may_be_a_text():
    flag = "--runner=DirectRunner"
    assert Caption(bundle="b", sources="x", pipeline_options=flag).pipeline_options == (flag,)


def test_secrets_are_not_shown_by_repr():
    assert "hush" not in repr(Caption(storage_options={"s3": {"secret": "hush"}}))


def test_printed_captions_leave_no_totals_of_an_earlier_run(tmp_path):
    totals = tmp_path / "totals.json"
    totals.write_text("{}")
    with pytest.raises(CaptionbeamError):
        parse(["caption", "x.jpg", "--bundle", str(tmp_path / "none"), "--totals", str(totals)]).run()
    assert totals.read_bytes() == b""
