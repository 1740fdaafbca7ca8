"""The docs: Python examples run, command lines parse, and pictures are small."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import pytest

from captionbeam.jobs import cli
from captionbeam.jobs.scenes.files import write_scenes
from tests.builders.running.commands import ROOT
from tests.builders.web.endpoint import scripted_endpoint

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "containers/README.md",
]
BLOCK = re.compile(r"(<!-- not run: [^>]* -->\n+)?^( *)```(\w*)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
SMALL = "--embed-dim 16 --hidden-dim 32 --attention-dim 16 --feature-dim 32 --epochs 1 --batch-size 8"


def blocks(page: Path, language: str) -> Iterator[str]:
    """Yields a page's blocks of code in a language, without those that say why they are not run."""
    for not_run, indent, found, text in BLOCK.findall(page.read_text()):
        if found == language and not not_run:
            yield re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def with_python() -> list[Path]:
    return [page for page in PAGES if any(blocks(page, "python"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name: photographs, captions, and the output of each command."""
    folder = tmp_path_factory.mktemp("docs")
    write_scenes(str(folder), {"train": 16, "val": 4, "test": 4})
    with zipfile.ZipFile(folder / "test.zip") as new:
        new.extractall(folder / "photos")
        shutil.copy(folder / "photos" / new.namelist()[0], folder / "photo.jpg")
    for line in (
        "encode train.zip val.zip --output features --encoder efficientnet_lite0",
        "encode --features features --output int8_features --dtype int8",
        "tokenize --train captions_train.json --val captions_val.json --output tokens",
        f"train --features features --tokens tokens --output bundle {SMALL}",
        "caption photos --bundle bundle --output captions --beam 3 --keep-attention --publish-anyway",
    ):
        words = line.split()
        assert (
            cli.main(
                [
                    str(folder / word) if (folder / word).exists() or word in OUTPUTS else word
                    for word in words
                ]
            )
            == 0
        )
    return folder


OUTPUTS = ("features", "int8_features", "tokens", "bundle", "captions")


@pytest.mark.engines
@pytest.mark.parametrize("page", with_python(), ids=lambda page: page.name)
def test_python_examples_run(page, made, tmp_path, monkeypatch):
    """The blocks of a page run in order, as one program, in a folder with photographs and stores.

    A scripted server answers for the one at port 8000.
    """
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    namespace = {"__name__": "__main__"}
    with scripted_endpoint() as server:
        for number, block in enumerate(blocks(page, "python"), start=1):
            source = block.replace("http://127.0.0.1:8000/v1", server.url)
            exec(compile(source, f"{page.name}, example {number}", "exec"), namespace)


@pytest.mark.engines
def test_the_notebook_runs(tmp_path):
    """The committed notebook has no outputs, so that it shows nothing of another version."""
    notebook = nbformat.read(ROOT / "docs/photographs_to_captions.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "report.html").exists()


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yields the words of each complete ``captionbeam`` command line of a page; variables get a value."""
    for block in (*blocks(page, ""), *blocks(page, "shell")):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            line = line.replace("~/go/bin/prism", sys.executable)  # the one path that has to exist
            if re.match(r"(\S*/)?captionbeam ", line) and "..." not in line:
                words = shlex.split(re.sub(r"\$\{?\w+\}?", "value", line), comments=True)
                ends = [words.index(end) for end in (">", "|", "&&") if end in words]
                yield words[1 : min(ends, default=len(words))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_parse(page):
    wrong = {}
    for words in command_lines(page):
        if words[0].startswith("-") or "--help" in words:
            continue
        try:
            cli.parse(words)
        except cli.RequestError as err:
            wrong[" ".join(words)] = str(err)
    assert not wrong


NAMED = re.compile(r"`((?:schemas|capmodel|pipelines|jobs|tests|docs|benchmarks|containers)/[\w./-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    named = NAMED.findall(page.read_text())
    assert not [path for path in named if not (ROOT / path).exists()]


def test_pictures_are_small():
    assert not [path.name for path in (ROOT / "docs/images").iterdir() if path.stat().st_size > 150_000]
