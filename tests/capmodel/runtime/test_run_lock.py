"""Two trainings into one folder of checkpoints: the second is told, and a dead one is in nobody's way."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from captionbeam.capmodel.runtime.run_lock import exclusive_run
from captionbeam.capmodel.training import worker
from captionbeam.schemas.errors import RequestError
from tests.builders.model.training import make_data, tiny_options

HOLD = """
import sys
from captionbeam.capmodel.runtime.run_lock import exclusive_run
with exclusive_run(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "checkpoints")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_told(other, tmp_path):
    url = str(tmp_path / "checkpoints")
    with pytest.raises(RequestError) as caught, exclusive_run(url, timeout=0.3):
        pytest.fail("both are in")
    assert str(caught.value) == (
        f"another run is training into {url}; expected to wait for its end, or another --output"
    )


def test_training_is_such_a_run(other, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "exclusive_run", partial(exclusive_run, timeout=0))
    options = tiny_options(make_data(tmp_path), tmp_path, checkpoints=str(tmp_path / "checkpoints"))
    with pytest.raises(RequestError, match="another run is training into"):
        worker.train(options, worker.StopRequest(), print)
    assert not (tmp_path / "checkpoints" / "latest.json").exists()


def test_a_run_that_was_killed_is_in_nobodys_way(other, tmp_path):
    other.kill()
    with exclusive_run(str(tmp_path / "checkpoints"), timeout=5):
        pass


def test_a_bucket_holds_nobody_apart():
    with (
        exclusive_run("memory://bucket/checkpoints", timeout=0),
        exclusive_run("memory://bucket/checkpoints", timeout=0),
    ):
        pass
