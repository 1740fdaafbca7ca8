"""The processes of a machine divide its devices by locks. CPUs stand for GPUs."""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
from contextlib import contextmanager

import pytest
import torch

from captionbeam.capmodel.runtime.device import named_devices, pick_devices
from captionbeam.capmodel.runtime.device_share import DeviceShare
from captionbeam.schemas.errors import RequestError

FORKED = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _own_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def cpus(count):
    return [torch.device("cpu")] * count


def _hold(devices, processes, pipe):
    share = DeviceShare(cpus(devices), processes)
    pipe.send(share.names)
    pipe.recv()


@contextmanager
def process(devices, processes):
    """Yields the names of the devices of another process that holds them, and the process."""
    here, there = FORKED.Pipe()
    other = FORKED.Process(target=_hold, args=(devices, processes, there))
    other.start()
    try:
        yield here.recv(), other
    finally:
        other.kill()
        other.join()


def test_two_processes_have_one_of_two_devices_each():
    with process(2, 2) as (first, _), process(2, 2) as (second, _):
        assert (first, second) == (["cpu#1"], ["cpu#2"])


def test_a_process_alone_has_all():
    assert DeviceShare(cpus(3)).names == ["cpu#1", "cpu#2", "cpu#3"]


def test_three_processes_divide_eight_devices_without_a_rest():
    with process(8, 3) as (first, _), process(8, 3) as (second, _), process(8, 3) as (third, _):
        assert [len(first), len(second), len(third)] == [3, 3, 2]
        assert sorted(first + second + third) == [f"cpu#{number}" for number in range(1, 9)]


@pytest.mark.parametrize("expected", [2, 3])
def test_a_process_too_many_shares_a_device_and_says_so(expected, caplog):
    with process(2, expected), process(2, expected):
        assert DeviceShare(cpus(2), expected).names == ["cpu#1"]
    assert caplog.messages == [
        "cpu#1 is shared with another process: this is process 3 for 2 devices; each has a copy of the model"
    ]


def test_the_devices_of_a_killed_process_go_to_the_next():
    with process(2, 2) as (first, other), process(2, 2):
        other.kill()
        other.join()
        with process(2, 2) as (third, _):
            assert first == third == ["cpu#1"]


def test_engines_of_one_process_have_the_same_devices_until_the_last_is_dropped():
    first, second = DeviceShare(cpus(2), 2), DeviceShare(cpus(2), 2)
    assert first.names == second.names == ["cpu#1"]
    del first
    with process(2, 2) as (other, _):
        assert other == ["cpu#2"]
    del second
    gc.collect()
    with process(2, 2) as (other, _):
        assert other == ["cpu#1"]


def test_a_lone_cpu_is_not_divided(tmp_path):
    with process(1, 4) as (first, _), process(1, 4) as (second, _):
        assert first == second == ["cpu"]
    assert list(tmp_path.iterdir()) == []


def test_devices_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    every = [torch.device("cuda", index) for index in range(3)]
    assert pick_devices("auto") == pick_devices("cuda") == every
    assert pick_devices("cuda:2,cuda:0") == [every[2], every[0]]
    assert pick_devices("cpu,cpu") == cpus(2)
    with pytest.raises(RequestError, match="no device 'cuda:3': this machine has 3 CUDA devices"):
        pick_devices("cuda:0,cuda:3")
    with pytest.raises(
        RequestError, match="device 'cpu,cuda' is not supported; expected auto, cpu, cuda, cuda:N or"
    ):
        named_devices("cpu,cuda")
