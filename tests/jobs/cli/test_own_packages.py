"""Commands run in a folder whose own packages are called ``schemas``, ``jobs``, ``capmodel`` and ``pipelines``."""

from __future__ import annotations

import re
import subprocess

import pytest

from captionbeam.jobs import demo
from captionbeam.schemas import Store
from tests.builders.running.commands import environment

PROCESSES = ("--direct_running_mode", "multi_processing", "--direct_num_workers", 2)
REFUSES = "raise RuntimeError('a package of the user was imported')\n"
pytestmark = pytest.mark.engines


@pytest.fixture
def place(tmp_path):
    for name in ("schemas", "jobs", "capmodel"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(REFUSES)
    (tmp_path / "pipelines.py").write_text(REFUSES)
    return tmp_path


def run(place, *arguments):
    """``captionbeam ARGUMENTS`` in ``place``, which is on Python's path too."""
    command = ["captionbeam", *map(str, arguments)]
    own = {**environment(), "PYTHONPATH": "."}
    done = subprocess.run(command, cwd=place, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_from_encode_to_report_by_two_processes_and_two_trainers(place):
    request = ["demo", "--output", "demo", "--images", 24, "--held-out", 6]
    said = run(place, *request)
    assert re.findall(r"^\$ captionbeam (\w+) ", said, re.MULTILINE) == list(demo.COMMANDS)
    assert re.search(r"held-out captions .*\d of 6 right in number, colour, shape and relation", said)
    assert (place / "demo" / "report.html").stat().st_size > 10_000
    assert run(place, *request).count("nothing to do") == 4
    scenes = "demo/scenes/test.zip"
    run(
        place,
        "encode",
        scenes,
        "--output",
        "again",
        "--encoder",
        "efficientnet_lite0",
        "--shard-size",
        3,
        *PROCESSES,
    )
    assert Store.open(str(place / "again")).totals["rows"] == 6
    run(place, "train", "--features", "demo/features", "--tokens", "demo/tokens", "--output", "other", "--epochs", 1,
        "--workers", 2)  # fmt: skip
    run(place, "caption", scenes, "--bundle", "other", "--output", "said", "--shard-size", 3, *PROCESSES)
    assert Store.open(str(place / "said")).totals["rows"] == 6
