"""Streams: equal parts of a batch, side by side, torch's threads divided among them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from capmodel.streams import ROWS, Streams


def slices(streams: Streams, rows: int) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    streams.run(lambda part: seen.append((part.start, part.stop)), rows)
    return sorted(seen)


def test_parts_are_equal_and_cover_the_batch():
    streams = Streams(4 * ROWS, threads=4)
    assert slices(streams, 4 * ROWS) == [(0, 8), (8, 16), (16, 24), (24, 32)]
    assert slices(streams, 10) == [(0, 5), (5, 10)]
    assert slices(streams, 7) == [(0, 7)]


@pytest.mark.parametrize(
    ("rows", "threads", "count"), [(1, 4, 1), (2 * ROWS, 4, 2), (2 * ROWS - 1, 4, 1), (9 * ROWS, 4, 4)]
)
def test_no_more_parts_than_threads_or_worthwhile_rows(rows, threads, count):
    assert Streams(rows, threads).count == count


def test_torchs_threads_are_divided_and_other_threads_keep_theirs():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        streams = Streams(2 * ROWS)
        seen: list[int] = []
        streams.run(lambda _: seen.append(torch.get_num_threads()), 2)
        assert seen == [2, 2]
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 4
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_parts_run_side_by_side():
    both = threading.Barrier(2, timeout=30)
    Streams(2 * ROWS, threads=2).run(lambda _: both.wait(), 2)


def test_an_error_is_raised_after_all_parts_are_done():
    done = []

    def work(part: slice) -> None:
        if part.start == 0:
            raise ValueError("the first part")
        done.append(part.start)

    with pytest.raises(ValueError, match="the first part"):
        Streams(4 * ROWS, threads=4).run(work, 4)
    assert sorted(done) == [1, 2, 3]
