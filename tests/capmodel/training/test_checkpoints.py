"""Checkpoints: whole or not there, on any filesystem, and only ever one's own run's."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from captionbeam.capmodel.training.checkpoints import Checkpoints, Position
from captionbeam.schemas.errors import RequestError, SystemicError
from captionbeam.schemas.storage import files

IDENTITY = {"seed": 0, "epochs": 4, "tokens": "abc"}
TENSORS = {"model.a": np.arange(6, dtype=np.float32).reshape(2, 3), "adam.step.a": np.array(7, np.float32)}
POSITION = Position(1, 2, 3.25, 40, 5.5, ({"epoch": 1, "CIDEr": 0.5},))


@pytest.fixture(params=["local", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"


def test_what_was_saved_comes_back(url):
    Checkpoints(url, IDENTITY).save(POSITION, TENSORS)
    position, tensors = Checkpoints(url, IDENTITY).load()
    assert position == POSITION
    assert {name: (value.dtype, value.tolist()) for name, value in tensors.items()} == {
        name: (value.dtype, value.tolist()) for name, value in TENSORS.items()
    }


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("last_word", range(2))
def test_a_kill_between_any_two_writes_leaves_the_earlier_checkpoint(url, last_word, monkeypatch):
    checkpoints, write, written = Checkpoints(url, IDENTITY), files.write_atomic, []
    checkpoints.save(POSITION, TENSORS)

    def write_until_killed(where, data):
        if len(written) == last_word:
            raise Killed
        written.append(where)
        write(where, data)

    monkeypatch.setattr(files, "write_atomic", write_until_killed)
    with pytest.raises(Killed):
        checkpoints.save(Position(3, 0), {"model.a": np.zeros(1, np.float32)})
    position, tensors = checkpoints.load()
    assert (position, sorted(tensors)) == (POSITION, sorted(TENSORS))


@pytest.mark.parametrize(
    ("other", "difference"),
    [({"seed": 4}, "seed 0, not 4"), ({"lr": 1}, "lr none, not 1")],
)
def test_another_runs_checkpoints_are_refused_with_the_difference(url, other, difference):
    Checkpoints(url, IDENTITY).save(POSITION, TENSORS)
    with pytest.raises(RequestError) as caught:
        Checkpoints(url, {**IDENTITY, **other}).load()
    assert str(caught.value) == (
        f"the checkpoints in {url} are of a run with {difference}; expected one with the same "
        "options and data (--restart starts over, --checkpoints names another folder)"
    )


def test_a_finished_run_keeps_the_name_of_its_bundle_alone(url):
    checkpoints = Checkpoints(url, IDENTITY)
    checkpoints.save_best(TENSORS)
    checkpoints.save_epoch(1, TENSORS)
    checkpoints.save(POSITION, TENSORS)
    checkpoints.finish("f" * 64)
    assert files.names(url) == ["epoch-0001.safetensors", "latest.json"]
    assert checkpoints.record()["bundle"] == "f" * 64
    assert Checkpoints(url, {"seed": 1}).load() is None


def test_a_newer_checkpoint_is_refused(url):
    files.write_atomic(files.join(url, "latest.json"), b'{"version": 2}')
    with pytest.raises(
        RequestError, match=r"latest.json has version 2; this captionbeam reads up to 1: upgrade"
    ):
        Checkpoints(url, IDENTITY).load()


def test_tensors_that_are_broken_or_gone_are_refused(url):
    checkpoints = Checkpoints(url, IDENTITY)
    checkpoints.save(POSITION, TENSORS)
    files.write_atomic(files.join(url, "state-0001-00000002.safetensors"), b"broken")
    with pytest.raises(RequestError, match=r"state-0001-00000002.safetensors cannot be read"):
        checkpoints.load()
    with pytest.raises(RequestError, match=r"best.safetensors cannot be read"):
        checkpoints.load_best()


def test_a_full_disk_stops_the_job(tmp_path, monkeypatch):
    def refuse(url, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_atomic", refuse)
    with pytest.raises(SystemicError, match=r"cannot be written .*No space left on device"):
        Checkpoints(str(tmp_path), IDENTITY).save(POSITION, TENSORS)


def test_only_the_newest_state_is_kept(url):
    checkpoints = Checkpoints(url, IDENTITY)
    for step in (3, 10, 9):
        checkpoints.save(Position(0, step), TENSORS)
    assert files.names(url) == ["latest.json", "state-0000-00000009.safetensors"]
    assert checkpoints.load()[0] == Position(0, 9)


def test_clearing_forgets_the_run_and_nothing_else(url):
    checkpoints = Checkpoints(url, IDENTITY)
    checkpoints.save_best(TENSORS)
    checkpoints.save_epoch(2, TENSORS)
    checkpoints.save(POSITION, TENSORS)
    files.write_atomic(files.join(url, "notes.txt"), b"mine")
    checkpoints.clear()
    assert files.names(url) == ["notes.txt"]
    assert checkpoints.load() is None


@pytest.mark.parametrize("content", [b"half a", b"[]"])
def test_what_is_no_checkpoint_is_refused(url, content):
    files.write_atomic(files.join(url, "latest.json"), content)
    with pytest.raises(RequestError, match=r"latest.json is not a checkpoint.*--restart"):
        Checkpoints(url, IDENTITY).load()
