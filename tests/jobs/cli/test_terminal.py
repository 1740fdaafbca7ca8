"""What is said on a terminal: one line a name, tables without markup, streams that are closed or break."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.jobs import cli
from captionbeam.jobs.ui.progress import Progress
from captionbeam.jobs.ui.terminal import visible
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.formats import arrow
from tests.builders.data.stores import make_store
from tests.builders.running.commands import ROOT, environment

ID = "a\n\x1b[31m\tb [/x] :cat:.jpg"
SHOWN = r"a\n\x1b[31m\tb [/x] :cat:.jpg"


@given(st.text())
def test_any_text_is_one_line_that_moves_no_cursor(text):
    shown = visible(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert all(character >= " " and character != "\x7f" for character in shown)
    assert visible(shown) == shown


@pytest.fixture
def store(tmp_path):
    failure = ImageError("decode", "decode", "no\npicture")
    captions = [{"text": "a \x1b[2Jdog\nruns", "logprob": -1.0, "tokens": ["a"]}]
    items = {ID: captions, "bad\r.jpg": failure}
    return make_store(str(tmp_path / "we [/x] :cat: #2"), "captions", arrow.captions_field(False), items)


def said(capsys, *arguments) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_ids_and_paths_are_one_line_each_in_every_command(store, capsys):
    assert said(capsys, "store", "failures", store.url) == (
        "decode\tdecode\tbad\\r.jpg\t/images/bad\\r.jpg\tno\\npicture\n"
    )
    assert "we [/x] :cat: #2" in said(capsys, "store", "show", store.url)
    assert "1 *" in said(capsys, "store", "ls", store.url)
    make_store(store.url, "captions", arrow.captions_field(False), {f"2{ID}": []})
    out = said(capsys, "store", "diff", store.url, "1", "2", "--ids")
    assert out.endswith(f"\nadded\t2{SHOWN}\n")


def test_an_error_is_one_line(capsys):
    assert cli.main(["store", "ls", "/no\n\x1b[31mwhere"]) == 2
    assert capsys.readouterr().err.startswith(r"captionbeam: /no \x1b[31mwhere has no published snapshot")


def test_progress_that_nobody_reads_stops_nothing(tmp_path):
    class Broken:
        def isatty(self):
            return False

        def write(self, text):
            raise BrokenPipeError

        flush = write

    with Progress("encode", 3, stream=Broken()) as progress:
        progress.say("listing images")
        progress.update(3)


@pytest.mark.engines
@pytest.mark.parametrize(
    ("command", "status", "out", "err"),
    [("store ls {} 2>&-", 0, "snapshot", ""), ("store ls {} | true; exit ${{PIPESTATUS[0]}}", 1, "", "")],
)
def test_closed_and_broken_streams_bring_no_traceback(store, command, status, out, err):
    line = f"'{sys.executable}' -m captionbeam.jobs.cli " + command.format(f"'{store.url}'")
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=environment(), cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (status, err)
    assert out in done.stdout
