"""The command line: help to paste, one sentence an error, the exit statuses."""

from __future__ import annotations

import importlib
import shlex
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from captionbeam.jobs import cli
from captionbeam.schemas.errors import RequestError
from tests.builders.zygote import captionbeam

BULK = ["--output", "out", "--encoder", "efficientnet_lite0"]


@pytest.mark.parametrize("name", cli.JOBS)
def test_each_help_opens_with_a_command_that_the_parser_takes(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0
    first = next(line.strip() for line in capsys.readouterr().out.splitlines() if line.strip())
    program, job, *arguments = shlex.split(first.partition("#")[0])
    assert (program, job) == ("captionbeam", name)
    cli.parse([name, *arguments])


def test_the_overview_names_every_job(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in cli.JOBS)


PHOTO = str(Path(tempfile.gettempdir(), "captionbeam-test.jpg"))


@pytest.fixture(scope="module", autouse=True)
def photo():
    Image.new("RGB", (64, 64), "red").save(PHOTO)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["encod"], "no job 'encod'; expected one of encode, import-features, svd, tokenize, train"),
        (["encode", "x.zip"], "the following arguments are required: --output"),
        (["encode", "x.zip", "--output", "s"], "no encoder is named; expected --encoder NAME, or --features"),
        (["encode", "x.zip", *BULK, "--shard-sise", "3"], "unknown option '--shard-sise'; expected one of"),
        (["encode", "x.zip", *BULK, "--shard-size", "0"], "'0' is not a whole number above 0"),
        (
            ["encode", "x.zip", *BULK, "--max-failures", "1.5"],
            "'1.5' is neither a share below 1 nor a whole number",
        ),
        (["encode", "x.zip", *BULK, "--sample", "nan"], "'nan' is not a number"),
        (["encode", "/not/there.zip", *BULK], "'/not/there.zip' does not exist"),
        (
            ["encode", "x.zip", *BULK, "--max-failures", "inf"],
            "'inf' is neither a share below 1 nor a whole number",
        ),
        (
            ["encode", "x.zip", *BULK, "--image-size", "100000"],
            "'100000' is not a whole number of pixels from 32",
        ),
        (["encode", "x.zip", *BULK, "--runner", "NoSuch"], "no runner 'NoSuch'"),
        (["encode", __file__, *BULK], "is of no known kind"),
        (["encode", PHOTO, "--output", "foo://bar", *BULK[2:]], "'foo://bar' cannot be opened"),
        (["encode", PHOTO, *BULK, "--weights", "/etc/passwd"], "weights '/etc/passwd'"),
        (
            ["caption", "x.jpg", "--bundle", "b", "--shard-size", "9"],
            "--shard-size would do nothing without --output",
        ),
        (
            ["caption", "--features", "f", "--bundle", "b", "--output", "o", "--fetch-tries", "9"],
            "--fetch-tries would do nothing with --features",
        ),
        (
            ["encode", "x.zip", *BULK, "--fetch-timeout", "0"],
            "'0' is not a number of seconds above 0",
        ),
        (
            ["caption", "--features", "f", "--bundle", "b", "--output", "o", "--image-root", "r"],
            "--image-root would do",
        ),
        (
            ["encode", "x.zip", *BULK, "--seed", "2"],
            "--seed 2 would do nothing without --sample or --limit; expected to leave it out",
        ),
        (
            ["caption", "x.jpg", "--bundle", "b", "--seed", "2"],
            "--seed 2 would do nothing without --sample or --limit, or --method sample; expected to leave it out",
        ),
        (["caption", "--bundle", "b"], "captions need one of SOURCE and --features"),
        (
            ["caption", "x.jpg", "--bundle", "b", "--beam", "2", "--method", "greedy"],
            "--beam would do nothing with",
        ),
        (
            ["caption", "x.jpg", "--bundle", "b", "--top-k", "2"],
            "--top-k would do nothing with --method beam",
        ),
        (
            ["caption", "x.jpg", "--bundle", "b", "--length-penalty", "1", "--method", "greedy"],
            "--length-penalty would do nothing with --method greedy; expected another method, or to leave it out",
        ),
    ],
)
def test_a_wrong_request_is_one_sentence_and_status_2(arguments, sentence, capsys):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert sentence in err
    assert err.startswith("captionbeam: ")
    assert err.count("\n") == 1
    assert out == ""


def test_a_misspelt_option_is_told_the_nearest():
    from captionbeam.pipelines.runners.flags import check_beam_args

    with pytest.raises(RequestError, match="'--runer'.*did you mean --runner"):
        check_beam_args(["--runer", "SparkRunner"])
    check_beam_args(["--runner", "SparkRunner", "--spark_master_url=local[2]"])


def test_the_console_script_gives_its_status_to_the_shell():
    done = captionbeam("encode", "/not/there", *BULK, status=2)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_the_command_imports_its_modules_is_one_sentence(monkeypatch):
    class Interrupting:
        def find_spec(self, name, path=None, target=None):
            if name == "captionbeam.jobs.options.storage":
                raise KeyboardInterrupt

    for name in ("captionbeam.jobs.cli", "captionbeam.jobs.options.storage"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module("captionbeam.jobs.cli")
    assert stopped.value.code == "captionbeam: interrupted"  # which ends with status 1


@pytest.mark.parametrize(
    ("more", "said"),
    [([], "interrupted; the same command goes on from here"), (["--dry-run"], "interrupted")],
)
def test_ctrl_c_is_one_sentence_that_promises_what_is_kept(more, said, monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["train", *more]) == 1
    assert capsys.readouterr().err == f"captionbeam: {said}\n"
