"""The device of the tests in this folder, and the table of figures at their end.

CAPTIONBEAM_TEST_DEVICE=cpu runs on the CPU whatever does not need CUDA itself, to try the tests.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from captionbeam.schemas.machine import cores
from tests.builders.data.images import drawn, encoded

ROWS: list[tuple[str, str, str]] = []
DEVICE = os.environ.get("CAPTIONBEAM_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder with ``gpu``."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> str:
    """The name of the device; without it, all tests end."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.exit(f"torch {torch.__version__} finds no CUDA device; expected one", returncode=2)
    return DEVICE


@pytest.fixture(scope="session")
def cuda(device: str) -> torch.device:
    """A CUDA device, for tests of what no other device has."""
    if device != "cuda":
        pytest.skip(f"needs CUDA; CAPTIONBEAM_TEST_DEVICE is {device}")
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Forty drawn photographs of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number:02d}.jpg" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(drawn(300 + 17 * number, 420 - 3 * number), "JPEG"))
    return paths


def note(what: str, value: str, compared: str = "") -> None:
    """Adds a row to the table."""
    ROWS.append((what, value, compared))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table, in Markdown."""
    if ROWS:
        name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else platform.machine()
        versions = f"torch {torch.__version__}, Python {platform.python_version()}"
        if find_spec("transformers"):
            versions += f", transformers {version('transformers')}"
        where = f"{name}, {cores()} cores, {versions}"
        terminalreporter.write_line(f"\n| {where} | | |\n|---|---|---|")
        for row in ROWS:
            terminalreporter.write_line(f"| {' | '.join(row)} |")
