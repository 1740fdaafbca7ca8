"""A process that has loaded what is heavy, and forks one child for each command of ours that is to run.

Loading torch and Beam takes four seconds of a core: more than most commands of a test take themselves. Only other
people's packages that look at nothing of their process are loaded before the fork; ours, and fsspec with its options
from the environment, are loaded by each child anew, under the environment that it is given.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

HEAVY = (
    "torch",
    "torchvision.transforms.v2.functional",
    "apache_beam.pipeline",
    "apache_beam.runners.direct.direct_runner",
    "apache_beam.runners.portability.fn_api_runner.fn_runner",
    "pyarrow.parquet",
    "pyarrow.compute",
    "pyarrow.dataset",
    "h5py",
    "PIL.Image",
    "rich.progress",
    "aiohttp",
    "tenacity",
    "jsonschema",
    "safetensors.torch",
    "aiobotocore.session",
    "google.auth.transport.requests",
    "google.oauth2.service_account",
    "google.cloud.storage",
)


class Zygote:
    """The process, started with its first command; it ends with this one, whose end closes its standard input."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """``python -m captionbeam ARGUMENTS`` in ``folder``: its status, and what it wrote to its two outputs."""
        with TemporaryDirectory() as scratch:
            outputs = [str(Path(scratch) / name) for name in ("stdout", "stderr")]
            request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(folder),
                       "outputs": outputs}  # fmt: skip
            status = self._status(json.dumps(request))
            said = [Path(output).read_text() for output in outputs]
        return subprocess.CompletedProcess(["captionbeam", *arguments], status, *said)

    def _status(self, request: str) -> int:
        with self._lock:
            process = self._started()
            print(request, file=process.stdin, flush=True)
            return int(process.stdout.readline())

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        return self._process


_zygote = Zygote()


def captionbeam(*arguments: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """``captionbeam ARGUMENTS...`` in a process of its own; checks the exit status unless that is None."""
    from tests.builders.running.commands import ROOT, checked, environment

    done = _zygote.run([str(argument) for argument in arguments], environment(), ROOT)
    checked(done, status)
    return done


def serve(requests: TextIO, answers: TextIO) -> dict[str, Any] | None:
    """Answer each request with the exit status of the child that runs it.

    Gives the request in each child, and None at the end of all of them.
    """
    for name in HEAVY:
        importlib.import_module(name)
    for line in iter(requests.readline, ""):
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            return request
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
    return None


def become(request: Mapping[str, Any]) -> None:
    """Take on a request's outputs, environment, folder and command line."""
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, path in enumerate(request["outputs"], 1):
        with open(path, "w") as output:
            os.dup2(output.fileno(), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv = ["captionbeam", *request["arguments"]]
    try:
        runpy.run_module("captionbeam", run_name="__main__", alter_sys=True)
    finally:
        if twice := sorted({"schemas", "capmodel", "pipelines", "jobs"} & sys.modules.keys()):
            os.write(2, f"imported outside captionbeam: {', '.join(twice)}\n".encode())
            os._exit(70)


if __name__ == "__main__":
    mine = serve(sys.stdin, sys.stdout)
    if mine is not None:
        become(mine)
