"""Devices, precision, and batches side by side on one device."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from captionbeam.capmodel.runtime.device import resolve_precision
from captionbeam.capmodel.runtime.streams import MOST, ROWS, Streams
from captionbeam.schemas.errors import RequestError


@pytest.mark.parametrize(
    ("rows", "device", "threads", "count"),
    [
        (ROWS, "cpu", 2, 2),
        (ROWS - 1, "cpu", 2, 1),
        (99, "cpu", 1, 1),
        (99, "cpu", 64, MOST),
        (99, "cuda", 4, 1),
    ],
)
def test_there_are_as_many_as_threads_where_batches_are_worth_it(rows, device, threads, count):
    assert Streams(rows, device, threads).count == count


def test_torchs_threads_are_divided_and_other_threads_keep_theirs():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2 * MOST)
        streams = Streams(ROWS)
        with ThreadPoolExecutor(streams.count) as callers:
            seen = callers.map(lambda _: streams.run(torch.get_num_threads), range(streams.count))
            assert list(seen) == [2] * MOST
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2 * MOST
        assert torch.get_num_threads() == 2 * MOST
    finally:
        torch.set_num_threads(before)


def test_as_many_batches_as_streams_run_side_by_side_and_no_more():
    streams, both = Streams(ROWS, threads=2), threading.Barrier(2, timeout=30)
    under_way, most, lock = [0], [0], threading.Lock()

    def work() -> None:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        both.wait()
        with lock:
            under_way[0] -= 1

    with ThreadPoolExecutor(8) as callers:
        list(callers.map(lambda _: streams.run(work), range(8)))
    assert most == [2]


@pytest.fixture
def processor(monkeypatch):
    """Makes this machine one whose processor has exactly the named abilities, and no GPU."""

    def make(*names: str) -> None:
        able = dict.fromkeys(names, True)
        monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: able))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return make


@pytest.mark.parametrize(
    ("abilities", "precision"),
    [
        (("avx512_bf16",), "bf16"),
        (("amx_bf16", "amx_tile"), "bf16"),
        (("sve_bf16",), "bf16"),
        (("avx512_f", "avx2"), "fp32"),
        ((), "fp32"),
    ],
)
def test_auto_is_bf16_on_processors_that_multiply_it(processor, abilities, precision):
    processor(*abilities)
    assert resolve_precision("auto") == resolve_precision("auto", "cpu") == precision


def test_another_precision_is_refused():
    with pytest.raises(RequestError, match="precision is 'fp64'; expected auto, fp32 or bf16"):
        resolve_precision("fp64")
