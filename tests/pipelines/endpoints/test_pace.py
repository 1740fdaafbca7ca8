"""The pace of a run's processes: in any minute, however they come and go, the limit holds."""

from __future__ import annotations

import heapq
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.pipelines.endpoints.client.pace import (
    FRESH,
    GONE,
    RENEW,
    SKEW,
    SLICE,
    Limits,
    Members,
    Pace,
    View,
)
from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.storage import files
from tests.builders.running.commands import ROOT, environment


def busiest(times, weights=None, window=60.0):
    """The most that any half-open window has."""
    weights = weights or [1] * len(times)
    sums = [0]
    for weight in weights:
        sums.append(sums[-1] + weight)
    return max((sums[bisect_left(times, at + window)] - sums[n] for n, at in enumerate(times)), default=0)


# ---- simulated time


class Process:
    """One process of the simulation, which always has something to ask; ``tokens`` of each request.

    ``skew``: seconds by which its clock is ahead.
    """

    def __init__(self, name, limits, born, dies, tokens, skew=0.0):
        self.name, self.limits, self.members = name, limits, Members(name)
        self.born, self.dies, self.tokens, self.skew = born, dies, tokens, skew
        self.renewals = 0
        self.sent = 0


def simulated(processes, end, stalls=(), closes=False, seed=0):
    """The times of all requests and their tokens, in order.

    ``stalls``: seconds by which a renewal begins late, its write lands late, and its listing returns late, by process
    and number. ``closes``: a record disappears when its process ends.
    """
    store, sent, order, draw, late = {}, [], itertools.count(), random.Random(seed), dict(stalls)
    events = []

    def at(when, n, what, *more):
        heapq.heappush(events, (when, next(order), n, what, more))

    for n, process in enumerate(processes):
        at(process.born, n, "begin")
        at(process.born, n, "ask")
        at(process.dies, n, "end")
    while events:
        now, _, n, what, more = heapq.heappop(events)
        process = processes[n]
        if what == "end":
            if closes:
                store.pop(process.name, None)
        elif now >= min(end, process.dies):
            continue
        elif what == "begin":
            process.renewals += 1
            _, writing, _ = late.get((n, process.renewals), (0.0, 0.0, 0.0))
            at(now + draw.uniform(0, 0.1) + writing, n, "write", now)
        elif what == "write":
            store[process.name] = str(process.renewals)
            at(now + draw.uniform(0, 0.1), n, "list", *more)
        elif what == "list":
            _, _, listing = late.get((n, process.renewals), (0.0, 0.0, 0.0))
            at(now + draw.uniform(0, 0.1) + listing, n, "listed", *more, dict(store))
        elif what == "listed":
            began, states = more
            process.members.renewed(began + process.skew, states, now + process.skew)
            beginning, _, _ = late.get((n, process.renewals + 1), (0.0, 0.0, 0.0))
            at(now + RENEW + draw.uniform(0, 0.3) + beginning, n, "begin")
        else:
            clock = now + process.skew
            view = process.members.view(clock)
            seconds = SLICE if view is None else process.limits.seconds(clock, view)
            if seconds > 0:
                at(now + min(max(seconds, 1e-6), SLICE), n, "ask")
                continue
            process.limits.used(process.tokens, process.limits.take(clock, view))
            sent.append((now, process.tokens))
            process.sent += 1
            at(now + draw.uniform(0, 0.02), n, "ask")
    return [at for at, _ in sent], [tokens for _, tokens in sent]


lives = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 5.0]) | st.floats(0, 200), st.sampled_from([400.0]) | st.floats(5, 300)
    ),
    min_size=1,
    max_size=4,
)
seconds = st.sampled_from([0.0, 4.9, 15.1, 31.0]) | st.floats(0, 60)
stalls = st.dictionaries(
    st.tuples(st.integers(0, 3), st.integers(1, 20)), st.tuples(seconds, seconds, seconds), max_size=4
)
skews = st.lists(st.sampled_from([0.0, SKEW]) | st.floats(0, SKEW), min_size=4, max_size=4)
limits = st.integers(1, 20) | st.sampled_from([0.5, 60, 250])


@given(lives, stalls, st.booleans(), limits, skews, st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_no_minute_has_more_requests_than_the_limit(lives, stalls, closes, limit, skews, seed):
    """Processes start at once or late, end, are killed, and stall, and their clocks differ."""
    processes = [
        Process(f"p{n}", Limits(limit, None), born, born + life, 100, skews[n])
        for n, (born, life) in enumerate(lives)
    ]
    times, _ = simulated(processes, 400.0, stalls, closes, seed)
    assert busiest(times) <= max(limit, 1)


names = st.sets(st.sampled_from("abcdefghij"), max_size=6)


@given(names, names, st.integers(0, 10**9))
def test_a_slot_has_one_owner_whoever_else_two_processes_count(some, others, slot):
    one, two = View("x", frozenset({*some, "y"})), View("y", frozenset({*others, "x"}))
    assert not (one.owns(slot) and two.owns(slot))


@given(names.filter(bool), st.integers(0, 10**9))
def test_processes_that_agree_leave_no_slot_unused(names, slot):
    assert sum(View(name, frozenset(names - {name})).owns(slot) for name in names) == 1


@given(lives, stalls, st.booleans(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_no_minute_has_more_tokens_than_the_limit(lives, stalls, closes, seed):
    limit = 100_000
    processes = [
        Process(f"p{n}", Limits(None, limit), born, born + life, 200 + 400 * n)
        for n, (born, life) in enumerate(lives)
    ]
    times, tokens = simulated(processes, 300.0, stalls, closes, seed)
    assert busiest(times, tokens) <= 1.1 * limit


@pytest.mark.parametrize("limit", [3, 10, 60, 600])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_limit_is_nearly_used_up(limit, count):
    processes = [Process(f"p{n}", Limits(limit, None), 0.0, 1e9, 100) for n in range(count)]
    times, _ = simulated(processes, 700.0)
    per_minute = len([at for at in times if at > 100]) / 10
    assert 0.95 * limit <= per_minute <= limit


def test_processes_get_equal_shares():
    processes = [Process(f"p{n}", Limits(600, None), 0.0, 1e9, 100) for n in range(3)]
    simulated(processes, 700.0)
    assert all(0.9 < process.sent / 2260 < 1.1 for process in processes)


def test_the_tokens_are_nearly_used_up():
    processes = [Process(f"p{n}", Limits(None, 100_000), 0.0, 1e9, 1200) for n in range(3)]
    times, tokens = simulated(processes, 700.0)
    per_minute = sum(each for at, each in zip(times, tokens, strict=True) if at > 100) / 10
    assert 95_000 <= per_minute <= 101_000


# ---- the rules of membership


def counted(members, now):
    """The others that a process counts, as one word; None while it may not send."""
    view = members.view(now)
    return None if view is None else "".join(sorted(view.others))


def test_a_process_alone_starts_once_no_slot_of_another_is_current():
    members = Members("a")
    members.renewed(100.0, {"a": "1"}, 100.1)
    assert counted(members, 100.2) is None
    assert counted(members, 100.1 + SKEW) == ""


def test_a_process_that_sees_others_gives_them_the_time_to_notice():
    members = Members("b")
    members.renewed(100.0, {"a": "5", "b": "1"}, 100.1)
    assert counted(members, 100.2) is None
    members.renewed(110.0, {"a": "6", "b": "2"}, 110.1)
    assert counted(members, 100.0 + FRESH) is None
    assert counted(members, 100.1 + FRESH + SKEW) == "a"


def test_the_slot_that_another_may_have_used_before_it_ended_is_left_alone():
    members = Members("a")
    members.renewed(100.0, {"a": "1", "b": "1"}, 100.0)
    members.renewed(110.0, {"a": "2", "b": "2"}, 110.0)
    members.renewed(120.0, {"a": "3"}, 120.0)
    assert counted(members, 120.1) is None
    assert counted(members, 120.0 + SKEW) == ""


def test_a_process_that_no_longer_changes_its_record_gives_up_its_share():
    members = Members("a")
    for renewal in range(5):
        now = 100.0 + renewal * RENEW
        members.renewed(now, {"a": str(renewal), "b": "7"}, now)
        if renewal:
            assert counted(members, now + FRESH) == ("b" if renewal * RENEW <= GONE else "")


def test_a_process_that_cannot_renew_its_record_sends_nothing():
    members = Members("a")
    members.renewed(100.0, {"a": "1"}, 100.0)
    assert counted(members, 100.0 + FRESH) == ""
    assert counted(members, 100.1 + FRESH) is None


# ---- the real thing


def test_without_limits_there_is_no_wait_no_thread_and_no_file(tmp_path):
    threads = threading.active_count()
    pace = Pace(None, None)
    pace.join(str(tmp_path))
    began = time.monotonic()
    for _ in range(1000):
        pace.used(100, pace.wait())
    assert time.monotonic() - began < 0.5
    assert (threading.active_count(), list(tmp_path.iterdir())) == (threads, [])


def test_a_record_lies_in_the_runs_folder_until_the_end(tmp_path):
    pace = Pace(600, None)
    pace.join(str(tmp_path))
    pace.join(str(tmp_path))
    pace.wait()
    (record,) = (tmp_path / "pace").iterdir()
    assert json.loads(record.read_text())["renewals"] >= 1
    pace.close()
    assert list((tmp_path / "pace").iterdir()) == []


def test_a_pause_holds_back_requests():
    pace = Pace(None, None)
    pace.pause(0.3)
    began = time.monotonic()
    pace.wait()
    assert 0.3 <= time.monotonic() - began < 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_record_that_cannot_be_renewed_at_all_stops_the_run(tmp_path, monkeypatch):
    def broken(url):
        raise ValueError("a storage's own error")

    monkeypatch.setattr(files, "states", broken)
    pace = Pace(600, None)
    pace.join(str(tmp_path))
    with pytest.raises(SystemicError, match="is not renewed any more"):
        pace.wait()
    pace.close()


def test_closing_lets_all_go():
    pace = Pace(1, None)
    pace.pause(60)
    waiting = [threading.Thread(target=pace.wait) for _ in range(3)]
    for thread in waiting:
        thread.start()
    pace.close()
    for thread in waiting:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_the_state_of_a_file_differs_after_it_is_written_again(tmp_path, protocol):
    folder = str(tmp_path) if protocol == "file" else f"memory://{tmp_path.name}"
    assert files.states(f"{folder}/pace") == {}
    states = []
    for _ in range(2):
        files.write_atomic(f"{folder}/pace/a.json", b"{}")
        states.append(files.states(f"{folder}/pace"))
        time.sleep(0.01)
    assert [list(state) for state in states] == [["a.json"], ["a.json"]]
    assert states[0] != states[1]


SENDER = """
import sys, time
from captionbeam.pipelines.endpoints.client.pace import Pace

pace = Pace(60, None)
pace.join(sys.argv[1])
while True:
    pace.wait()
    print(time.time(), flush=True)
"""


@pytest.mark.engines
def test_three_real_processes_keep_to_the_limit(tmp_path):
    """Two start at once, one joins late, one is killed."""
    command = [sys.executable, "-c", SENDER, str(tmp_path)]

    def start():
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)

    processes = [start(), start()]
    time.sleep(20)
    processes.append(start())
    time.sleep(35)
    processes[0].kill()
    time.sleep(45)
    for process in processes:
        process.kill()
    sent = [[float(line) for line in process.communicate()[0].splitlines()] for process in processes]
    times = sorted(itertools.chain(*sent))
    assert all(sent)
    assert busiest(times) <= 60
    assert len(times) > 60
