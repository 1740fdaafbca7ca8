"""The command line: help to paste, one sentence an error, the exit statuses."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

import captionbeam
from captionbeam import jobs
from captionbeam.jobs import cli
from captionbeam.jobs.encode import Encode
from captionbeam.schemas.errors import RequestError
from tests.builders.running import zygote

BULK = ["--output", "out", "--encoder", "efficientnet_lite0"]
ENDPOINT = ("--captioner", "openai:http://localhost:1/v1", "--model", "m", "--output", "o")


@pytest.mark.parametrize("name", jobs.COMMANDS)
def test_each_help_opens_with_a_command_that_the_parser_takes(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*name.split(), "--help"])
    assert stopped.value.code == 0
    first = capsys.readouterr().out.strip().replace("\\\n", " ").splitlines()[0]
    words = shlex.split(re.split(" [#>|]", first)[0])
    assert words[: len(name.split()) + 1] == ["captionbeam", *name.split()]
    cli.parse(words[1:])


def test_the_overviews_name_every_command(capsys):
    assert cli.main([]) == cli.main(["store"]) == cli.main(["schedule"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in (*jobs.COMMANDS, "store", "schedule"))
    assert "\n  captionbeam store ls features\n" in said  # an example to paste


def test_every_command_is_a_class_of_the_package():
    classes = [target.partition(":")[2] for target in jobs.COMMANDS.values()]
    assert sorted(filter(None, classes)) == sorted(jobs.__all__)
    for name in jobs.__all__:
        assert getattr(captionbeam, name).HELP
    assert set(captionbeam.__all__) == {"Store", *jobs.__all__}


PHOTO = str(Path(tempfile.gettempdir(), "captionbeam-test.jpg"))


@pytest.fixture(scope="module", autouse=True)
def photo():
    Image.new("RGB", (64, 64), "red").save(PHOTO)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["encod"],
            "there is no command 'encod'; expected one of encode, import-features, svd, tokenize, train",
        ),
        (["store", "list"], "expected one of ls, show, failures"),
        (["store", "list"], "; did you mean ls?"),
        (["tokenise"], "; did you mean tokenize?"),
        (
            ["encode", "x.zip", "-output", "s"],
            "unknown option '-output' of captionbeam encode; did you mean --output?",
        ),
        (["store", "lss"], "there is no command 'store lss'; expected one of ls, show, failures"),
        (
            ["store", "ls", "s", "--runner", "DirectRunner"],
            "unknown option '--runner' of captionbeam store ls",
        ),
        (
            ["encode", "x.zip"],
            "--output is missing; expected the store: a folder, new or with earlier snapshots",
        ),
        (["encode", "x.zip", "--output", "s"], "no encoder is named; expected --encoder NAME, or --features"),
        (
            ["encode", "x.zip", *BULK, "--shard-sise", "3"],
            "unknown option '--shard-sise' of captionbeam encode",
        ),
        (["encode", "x.zip", *BULK, "--sample", "many"], "--sample is 'many'; expected a share from 0 to 1"),
        (["encode", "x.zip", *BULK[:3], "resnet5"], "--encoder is 'resnet5'; expected one of"),
        (["encode", "/not/there.zip", *BULK], "'/not/there.zip' does not exist"),
        (["encode", PHOTO, *BULK, "--runner", "NoSuch"], "no runner 'NoSuch'"),
        (["encode", __file__, *BULK], "is of no known kind"),
        (["encode", PHOTO, "--output", "foo://bar", *BULK[2:]], "'foo://bar' cannot be opened"),
        (["encode", PHOTO, *BULK, "--weights", "/etc/passwd"], "weights '/etc/passwd'"),
        (["caption", "--bundle", "b"], "captions need one of SOURCE and --features"),
        (["caption", "--bundle", "b", "--features", "f"], "--features needs --output"),
        (
            ["caption", "x.jpg", "--bundle", "b", "--runner", "FnApiRunner"],
            "--runner FnApiRunner needs --output",
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


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["encode", "--limt", "3"], "--limit"),
        (["encode", "--batch", "3"], "--batch-size"),
        (["encode", "--batch_size", "3"], "--batch-size"),
        (["caption", "--beams", "3"], "--beam"),
        (["encode", "--dry_run"], "--dry-run"),
    ],
)
def test_a_misspelt_option_is_told_the_nearest_of_the_command(words, meant):
    with pytest.raises(RequestError, match=f"unknown option '{words[1]}' of .*; did you mean {meant}\\?"):
        cli.parse(words)


def test_beams_flags_are_passed_on_wherever_they_stand():
    command = cli.parse(["encode", "--runner", "SparkRunner", "x.zip", "--spark_master_url=local[2]", *BULK])
    assert command.sources == ("x.zip",)
    assert command.pipeline_options == ("--runner", "SparkRunner", "--spark_master_url=local[2]")


def test_from_python_a_command_is_silent_and_gives_its_totals(tmp_path, capsys):
    url = str(tmp_path / "store")
    result = Encode(sources=[PHOTO], output=url, encoder="efficientnet_lite0", device="cpu").run()
    assert (result.status, result.totals["rows"], result.store.ids()) == (0, 1, [Path(PHOTO).name])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["encode", "none.zip", *BULK], f"source '{Path.cwd()}/none.zip' does not exist; expected a folder"),
        (
            ["caption", "--bundle", "none", PHOTO],
            "'none' does not exist; expected a folder that captionbeam train",
        ),
        (["tokenize", "--train", PHOTO, "--output", "out"], f"'{PHOTO}' is of no known kind; expected .json"),
        (["refresh", "none"], "'none' is not a store with a published snapshot"),
        (["svd", "--features", "none", "--output", "c.safetensors"], "none has no published snapshot"),
        (["encode", PHOTO, *BULK, "--weights", "none.pt"], "weights 'none.pt' cannot be read"),
        (["encode", PHOTO, *BULK, "--reduce", "none"], "'none' holds no components (it is not there)"),
        (["encode", PHOTO, *BULK, "--inventory", "none"], "none' cannot be read (not_found)"),
        (["import-features", "none.npy", "--fingerprint", "x", "--output", "o"], "none.npy' cannot be read"),
        (["caption", PHOTO, *ENDPOINT, "--prompt-file", "a=none"], "--prompt-file 'none' cannot be read"),
        (["caption", PHOTO, *ENDPOINT, "--prompt", "x", "--schema", "none"], "'none' cannot be read"),
        (["store", "retry-failures", "none"], "none has no published snapshot"),
    ],
)
def test_local_inputs_are_checked_before_beam_and_torch_are_imported(
    arguments, sentence, monkeypatch, capsys
):
    class Refusing:
        def find_spec(self, name, path=None, target=None):
            assert name not in ("captionbeam.jobs.run_on.target", "captionbeam.jobs.bulk.launch")

    for name in ("captionbeam.jobs.run_on.target", "captionbeam.jobs.bulk.launch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    assert cli.main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_command_takes_paths_and_shows_what_is_not_at_its_default():
    encode = Encode(
        sources=[Path("a"), "b.zip"], output=Path("out"), storage_options={"s3": {"key": "secret"}}
    )
    assert repr(encode) == "Encode(sources=('a', 'b.zip'), output='out')"


def test_the_version_is_that_of_the_distribution(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{captionbeam.__version__}\n"


def test_the_console_script_gives_its_status_to_the_shell():
    done = zygote.captionbeam("encode", "/not/there", *BULK, status=2)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_the_command_imports_its_modules_is_one_sentence(monkeypatch):
    class Interrupting:
        def find_spec(self, name, path=None, target=None):
            if name == "captionbeam.jobs.options.command_line":
                raise KeyboardInterrupt

    for name in ("captionbeam.jobs.cli", "captionbeam.jobs.options.command_line"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module("captionbeam.jobs.cli")
    assert stopped.value.code == "captionbeam: interrupted"  # which ends with status 1


@pytest.mark.parametrize(
    ("more", "said"),
    [([], "interrupted; the same command resumes"), (["--dry-run"], "interrupted")],
)
def test_ctrl_c_is_one_sentence_that_promises_what_is_kept(more, said, monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["train", *more]) == 1
    assert capsys.readouterr().err == f"captionbeam: {said}\n"
