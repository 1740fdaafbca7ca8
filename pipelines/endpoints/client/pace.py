"""Limits of requests and tokens per minute for a whole run, shared by its live worker processes.

Each process writes a record of itself to ``<run folder>/pace/`` and lists those of the others every RENEW seconds. It
sends requests only while its last listing is at most FRESH seconds old, and, when it joins, only once all others had
the time to notice. So whoever sends knows of all who send, but may count ones that end or join, too.

Requests: the time is cut into slots, one for each request that the limit allows. Each slot ranks all processes in an
order of its own (rendezvous hashing), and belongs to the first. Of two processes that know of each other, the later
one in that order never takes the slot, whoever else they count, so the limit holds whenever processes come and go.
Tokens: each process has a bucket of its own that fills at its share of the limit.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import getpid

from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.storage import files

MINUTE = 60.0
RENEW = 10.0  # seconds between two renewals of a record
FRESH = 15.0  # seconds for which a listing of the others holds
GONE = 30.0  # seconds without a change of its record after which a process counts as ended
IDLE = 60.0  # seconds without a request after which a process leaves its share to the others
LATE = 0.5  # seconds by which a slot may be used too late
SKEW = 0.5  # seconds by which the clocks of machines may differ, and requests be held up on their way
SLICE = 0.5  # longest sleep, in seconds
FIRST_TOKENS = 2000.0  # tokens of a request, as long as none is known
MEMORY = 0.1  # weight of the newest request in the mean

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """Who may send from ``start`` until ``end``, as the process ``name`` knows it: itself and the ``others``."""

    name: str = ""
    others: frozenset[str] = frozenset()
    start: float = float("-inf")
    end: float = float("inf")

    @property
    def count(self) -> int:
        """The number of processes that share the limits."""
        return 1 + len(self.others)

    def owns(self, slot: int) -> bool:
        """Tells whether ``name`` is the first of all in the slot's order."""
        own = _rank(slot, self.name)
        return all(own < _rank(slot, other) for other in self.others)


def _rank(slot: int, name: str) -> bytes:
    return hashlib.blake2b(f"{slot} {name}".encode(), digest_size=8).digest()


ALONE = View()


class Members:
    """The live processes of a run, as one of them knows them. Times are of its own clock."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: dict[str, tuple[str, float]] = {}  # by name: its state, and when that was new
        self._began, self._view = float("-inf"), View(name, start=float("inf"))

    def renewed(self, began: float, states: Mapping[str, str], now: float) -> None:
        """Notes a renewal, which ``began``, wrote the own record, listed all, and ended ``now``.

        ``states``: of all records, by name; a state differs after each renewal.
        """
        self._seen = {
            name: (state, self._seen[name][1] if self._seen.get(name, ("", 0))[0] == state else now)
            for name, state in states.items()
        }
        others = {name for name, (_, changed) in self._seen.items() if began - changed <= GONE} - {self._name}
        start = self._view.start
        if began - self._began > FRESH:  # new to the others, or perhaps given up by them
            start = now + SKEW + (FRESH if others else 0.0)
        elif not self._view.others <= others:  # one that ended may have used the current slot
            start = max(start, now + SKEW)
        self._began, self._view = began, View(self._name, frozenset(others), start, began + FRESH)

    def left(self) -> None:
        """Notes that the own record is about to be removed."""
        self._began, self._view = float("-inf"), View(self._name, start=float("inf"))

    def view(self, now: float) -> View | None:
        """Returns who may send; None while this process may not."""
        view = self._view
        return view if view.start <= now <= view.end else None


class Slots:
    """Slots for requests: ``limit`` in any minute."""

    def __init__(self, limit: float) -> None:
        self._length = (MINUTE + LATE + SKEW) / limit
        self._last = -1

    def seconds(self, now: float, view: View) -> float:
        """Returns the seconds until the next own slot; 0 if it is there. Over SLICE: at least so many."""
        return max(0.0, self._next(now, view) * self._length - now)

    def take(self, now: float, view: View) -> None:
        """Takes that slot."""
        self._last = self._next(now, view)

    def _next(self, now: float, view: View) -> int:
        """Returns the next own slot, or the first one that begins in more than SLICE seconds."""
        slot = max(math.ceil(max(now - LATE, view.start) / self._length), self._last + 1)
        while slot * self._length <= now + SLICE and not view.owns(slot):
            slot += 1
        return slot


class Bucket:
    """A bucket for tokens: ``limit`` in any minute, as far as single requests are small beside it."""

    def __init__(self, limit: float) -> None:
        self._limit, self._mean = limit, 0.0
        self._level, self._rate = 0.0, 0.0
        self._at: float | None = None

    @property
    def estimate(self) -> float:
        """The expected tokens of a request."""
        return self._mean or FIRST_TOKENS

    def seconds(self, now: float, count: int) -> float:
        """Returns the seconds until one of ``count`` processes may send a request; 0 if it may."""
        self._fill(now, count)
        return max(0.0, -self._level / self._rate)

    def take(self, tokens: float) -> None:
        """Takes ``tokens``, which may be negative."""
        self._level -= tokens

    def learn(self, tokens: int) -> None:
        """Notes the tokens of a request."""
        self._mean = self._mean + MEMORY * (tokens - self._mean) if self._mean else float(tokens)

    def _fill(self, now: float, count: int) -> None:
        """Fills the bucket by a process's share, less what a full bucket and one request may add to a minute."""
        share = self._limit / count
        most = share / MINUTE
        self._rate = max(share / 2, min(share, 1.1 * share - most - self.estimate)) / MINUTE
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._level = min(most, self._level + self._rate * passed)
        self._at = now


class Limits:
    """The limits of requests and tokens per minute, as one process heeds them; None: no limit."""

    def __init__(self, requests: float | None, tokens: float | None) -> None:
        self._slots = None if requests is None else Slots(requests)
        self._bucket = None if tokens is None else Bucket(tokens)
        self.any = self._slots is not None or self._bucket is not None

    def seconds(self, now: float, view: View) -> float:
        """Returns the seconds until a request may be sent, at least as far as SLICE; 0 if it may."""
        slot = 0.0 if self._slots is None else self._slots.seconds(now, view)
        return slot if self._bucket is None else max(slot, self._bucket.seconds(now, view.count))

    def take(self, now: float, view: View) -> float:
        """Counts a request that is sent. Returns the tokens reserved for it."""
        if self._slots is not None:
            self._slots.take(now, view)
        if self._bucket is None:
            return 0.0
        tokens = self._bucket.estimate
        self._bucket.take(tokens)
        return tokens

    def used(self, tokens: int, reserved: float) -> None:
        """Counts the tokens of a finished request instead of those that were ``reserved``."""
        if self._bucket is not None:
            self._bucket.take(tokens - reserved)
            if tokens:
                self._bucket.learn(tokens)


class Pace:
    """Lets requests pass as fast as the limits allow. Threads may share it.

    ``requests``, ``tokens``: per minute, for all processes of the run together; None: no limit. A process is alone
    until it joins a run. ``clock``: seconds of the epoch; machines should agree on it.
    """

    def __init__(
        self, requests: float | None, tokens: float | None, clock: Callable[[], float] | None = None
    ) -> None:
        self._limits = Limits(requests, tokens)
        self._clock = clock or _steady_clock()
        self._turn, self._state, self._joining = threading.Lock(), threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._held_until = float("-inf")
        self._record: Record | None = None

    def join(self, folder: str) -> None:
        """Shares the limits with the other processes of the run in ``folder``, where each keeps a record of itself."""
        if not self._limits.any:
            return
        with self._joining:
            if self._record is not None and self._record.folder == folder:
                return
            if self._record is not None:
                self._record.close()
            self._record = None if self._closed.is_set() else Record(folder, self._clock)

    def wait(self) -> float:
        """Waits until one more request may be sent. Returns the tokens reserved for it, for ``used``.

        Raises SystemicError if the processes of the run cannot learn of each other.
        """
        if not self._limits.any:
            while (seconds := self._held()) > 0 and not self._closed.wait(seconds):
                pass
            return 0.0
        with self._turn:  # one thread looks at the clock, the others queue up behind it
            while not self._closed.is_set():
                seconds, reserved = self._attempt()
                if seconds <= 0:
                    return reserved
                self._closed.wait(min(seconds, SLICE))
        return 0.0

    def used(self, tokens: int, reserved: float) -> None:
        """Counts the tokens of a finished request for which ``wait`` reserved some."""
        with self._state:
            self._limits.used(tokens, reserved)

    def pause(self, seconds: float) -> None:
        """Holds back all requests of this process for ``seconds``, as the server asked."""
        with self._state:
            self._held_until = max(self._held_until, self._clock() + seconds)

    def close(self) -> None:
        """Removes the process's record. Who waits does so no longer."""
        self._closed.set()
        record, self._record = self._record, None
        if record is not None:
            record.close()

    def _held(self) -> float:
        """Returns the seconds until the end of the pause, and a little more, so that not all start at once."""
        seconds = self._held_until - self._clock()
        return seconds + random.uniform(0, SLICE) if seconds > 0 else 0.0

    def _attempt(self) -> tuple[float, float]:
        """Returns the seconds until a request may be sent, or 0 and its reserved tokens."""
        record = self._record
        with self._state:
            now = self._clock()
            view = ALONE if record is None else record.view(now)
            if view is None:
                return SLICE, 0.0
            seconds = max(self._held_until - now, self._limits.seconds(now, view))
            return (seconds, 0.0) if seconds > 0 else (0.0, self._limits.take(now, view))


class Record:
    """This process's record in a run's folder, renewed by a thread of its own, and what it knows of the others.

    A process without requests to send for IDLE seconds has no record.
    """

    def __init__(self, folder: str, clock: Callable[[], float]) -> None:
        self.folder, self._clock = folder, clock
        name = f"{socket.gethostname()}-{getpid()}-{uuid.uuid4().hex[:8]}.json"
        self._records, self._url = files.join(folder, "pace"), files.join(folder, "pace", name)
        self._members, self._renewals = Members(name), 0
        self._wanted, self._idle = clock(), False
        self._closed, self._wake, self._writing = threading.Event(), threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="pace", daemon=True)
        self._thread.start()

    def view(self, now: float) -> View | None:
        """Returns who may send; None while this process may not.

        Raises SystemicError if the record will not be renewed any more.
        """
        if not self._thread.is_alive() and not self._closed.is_set():
            raise SystemicError(f"the record {self._url} is not renewed any more; the log says why")
        self._wanted = now
        if self._idle:
            self._wake.set()
        return self._members.view(now)

    def close(self) -> None:
        """Removes the record."""
        self._closed.set()
        self._wake.set()
        with self._writing:
            self._remove()

    def _renew(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            try:
                self._renew_once()
            except OSError as err:  # no request is sent until the record can be written again
                _log.warning("the record %s cannot be renewed: %s", self._url, err)
            self._wake.wait(RENEW)

    def _renew_once(self) -> None:
        with self._writing:
            if self._closed.is_set():
                return
            if self._clock() - self._wanted > IDLE:
                if not self._idle:
                    self._idle = True
                    self._members.left()
                    self._remove()
                return
            self._idle = False
            self._renewals += 1
            began = self._clock()
            files.write_atomic(self._url, files.json_bytes({"renewals": self._renewals}))
        states = files.states(self._records)
        self._members.renewed(began, states, self._clock())

    def _remove(self) -> None:
        try:
            files.remove(self._url)
        except FileNotFoundError:
            return
        except OSError as err:
            _log.warning("the record %s cannot be removed: %s", self._url, err)


def _steady_clock() -> Callable[[], float]:
    """Returns a clock that starts at the time of the epoch, and does not jump."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()
