"""Trains on this machine: runs the worker in torchrun's processes, receives events, and sends stop requests.

With several machines each runs its own torchrun; they meet at a rendezvous (jobs/submit/nodes.py).

Events are dicts with an ``event``. ``error`` (with ``message`` and ``status``) and ``crash`` (with ``message``) are
raised here; all others are passed on.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from captionbeam.capmodel.training.config import TrainOptions, cores
from captionbeam.jobs.submit.nodes import ALONE, Node
from captionbeam.schemas.errors import CaptionbeamError, RequestError, SystemicError
from captionbeam.schemas.machine import handling_signals
from captionbeam.schemas.storage import options as storage_options

# Batches have many shapes, and oneDNN and torch's layer on top each cache code for 1,024 of them: 2 GB after 1,000
# steps. Without the large caches, compiling takes 4% of a step.
SMALL_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "1"}
# glibc returns a step's large tensors to the system, which zeroes their pages again in the next step: 5 to 8% of a
# step's CPU time. Keeping them leaves the peak memory about the same.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
WORKER = "captionbeam.capmodel.training.worker"
Watch = Callable[[Mapping[str, Any]], None]


def describe(chosen: TrainOptions, workers: int, node: Node) -> str:
    """Returns the command that ``train`` would start."""
    return shlex.join(torchrun_command([WORKER, chosen.to_json()], workers, node))


def train_here(chosen: TrainOptions, workers: int, node: Node, watch: Watch) -> None:
    """Trains in ``workers`` processes of this machine. Raises RequestError, SystemicError."""
    threads = chosen.threads or max(1, cores() // workers)
    own = "" if node.nodes == 1 else f"-{socket.gethostname() if node.rank is None else node.rank}"
    log = Path(chosen.logs) / f"workers{own}.log"
    run_workers([WORKER, chosen.to_json()], workers, threads, log, watch, node)


def torchrun_command(command: Sequence[str], workers: int, node: Node = ALONE) -> list[str]:
    """Returns the command that runs ``command``, a module and its arguments, in ``workers`` processes of ``node``."""
    gathering = node.rendezvous() if node.nodes > 1 else ["--standalone"]
    return [sys.executable, "-m", "torch.distributed.run", *gathering,
            f"--nproc-per-node={workers}", "-m", *command]  # fmt: skip


def run_workers(
    command: Sequence[str], workers: int, threads: int, log: Path, watch: Watch, node: Node = ALONE
) -> None:
    """Runs ``command``, a module and its arguments, in ``workers`` processes here until all are done.

    Each JSON line that they print is an event for ``watch``. Standard error of workers and torchrun goes to the file
    ``log``, and to standard error if a platform keeps it (``node.echo``). SIGTERM and SIGINT send the line ``stop`` to
    the workers' standard input, whose end of file also tells them that this process was killed; a second signal goes to
    torchrun. Raises RequestError, SystemicError.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as errors:
        child = subprocess.Popen(
            torchrun_command(command, workers, node),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if node.echo else errors,
            text=True,
            env=_environment(threads),
            start_new_session=True,
        )
        threading.Thread(target=_cut_line, args=(child,), daemon=True).start()
        copying = threading.Thread(target=_echo, args=(child, errors), daemon=True)
        copying.start()
        with child, _stopping(child):
            bad, stopped = _watch_lines(child, watch)
            copying.join()
    if bad or (child.returncode and not stopped):
        raise _error(bad, child.returncode, log)


def _echo(child: subprocess.Popen[str], log: TextIO) -> None:
    """Copies the child's standard error, if it is piped, to the log and to standard error."""
    for line in child.stderr or ():
        for stream in (log, sys.stderr):
            stream.write(line)
            stream.flush()


def _environment(threads: int) -> dict[str, str]:
    """Returns the workers' environment: this process's, the defaults above and the number of threads."""
    return {
        **SMALL_CACHES,
        **KEPT_MEMORY,
        **storage_options.as_environment(),
        "OMP_NUM_THREADS": str(threads),
    }


def _cut_line(child: subprocess.Popen[str]) -> None:
    """Closes the workers' standard input when torchrun has exited."""
    child.wait()
    if child.stdin:
        child.stdin.close()


@contextmanager
def _stopping(child: subprocess.Popen[str]) -> Iterator[None]:
    """Makes SIGTERM and SIGINT ask the child to stop; the second signal terminates it."""
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        if asked and child.poll() is None:
            child.terminate()
        asked = True
        if child.stdin and not child.stdin.closed and child.poll() is None:
            with suppress(BrokenPipeError, ValueError):
                child.stdin.write("stop\n")
                child.stdin.flush()

    with handling_signals(ask):
        yield


def _watch_lines(child: subprocess.Popen[str], watch: Watch) -> tuple[list[Mapping[str, Any]], bool]:
    """Passes events on until the child exits.

    Returns the error events, and whether the workers stopped because they were asked to: torchrun, which a platform may
    also signal, then exits with a non-zero status.
    """
    bad: list[Mapping[str, Any]] = []
    stopped = False
    for line in child.stdout or ():
        event = _event(line)
        if event is None:
            sys.stdout.write(line)
        elif event["event"] in ("error", "crash"):
            bad.append(event)
        else:
            stopped |= event["event"] == "stopped"
            watch(event)
    child.wait()
    return bad, stopped


def _event(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) and "event" in value else None


def _error(bad: Sequence[Mapping[str, Any]], status: int, log: Path) -> CaptionbeamError:
    """Returns the first error; a crash only if there is none, since a process crashes when another has exited."""
    for event in sorted(bad, key=lambda event: event["event"] == "crash"):
        if event["event"] == "crash":
            return SystemicError(f"a worker crashed: {event['message']} (all of it is in {log})")
        kind = RequestError if event["status"] == RequestError.exit_status else SystemicError
        return kind(event["message"])
    return SystemicError(f"the workers ended {_end(status, log)} and no word why; expected one in {log}")


def _end(status: int, log: Path) -> str:
    """Describes how the first worker ended, from torchrun's report, or else how torchrun ended."""
    found = re.search(r"exitcode\s*:\s*(-?\d+)", log.read_text(errors="replace"))
    code = int(found[1]) if found else status
    if code >= 0:
        return f"with status {code}"
    hint = " (a want of memory, more often than not)" if -code == signal.SIGKILL else ""
    return f"by {signal.Signals(-code).name}{hint}"
