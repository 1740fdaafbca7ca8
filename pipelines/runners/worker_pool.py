"""Beam's external worker pool for Spark and Flink on one machine, for several JVMs at once.

Beam's own pool identifies its processes by an id from the JVM, and each JVM counts from 1. With two executors or task
managers on one machine, the one that finishes would stop the other's process, and the other would wait forever. This
pool never stops a process by id. A process ends when its JVM closes the connection or disappears.

Engines request a new process for every stage of a job and after each failure. Processes are therefore forked from one
that has imported everything, which takes almost no time.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.sdk_worker import SdkHarness
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from captionbeam.schemas.errors import RequestError

STARTERS, TRIES = 8, 3
DYING = 10.0  # seconds
LOST = 255  # multiprocessing's status for a process whose fork server is gone
IMPORTED = [__name__, "captionbeam.pipelines.workers.transforms", "torch", "torchvision"]


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts a Python process for each JVM that requests one. A context manager; ``port`` 0 selects a free port.

    Raises RequestError if the port is in use.
    """

    def __init__(self, port: int = 0, host: str = "localhost") -> None:
        self._processes: set[BaseProcess] = set()
        self._closed = False
        self._fork, self._forking = multiprocessing.get_context("forkserver"), threading.Lock()
        self._fork.set_forkserver_preload(IMPORTED)
        self._server = grpc.server(ThreadPoolExecutor(STARTERS), options=[("grpc.so_reuseport", 0)])
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(self, self._server)
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as err:
            raise RequestError(
                f"port {port} of {host} cannot be listened on; expected one that nobody has"
            ) from err

    def __enter__(self) -> WorkerPool:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._server.stop(0)
        for process in list(self._processes):
            process.kill()

    def StartWorker(  # noqa: N802
        self, request: beam_fn_api_pb2.StartWorkerRequest, context: Any
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        """Starts a process that works for the JVM at the request's control endpoint."""
        wanted = request.control_endpoint.url, request.worker_id
        threading.Thread(target=self._look_after, args=(wanted, self._start(wanted)), daemon=True).start()
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(  # noqa: N802
        self, request: beam_fn_api_pb2.StopWorkerRequest, context: Any
    ) -> beam_fn_api_pb2.StopWorkerResponse:
        """Does nothing: the JVM also closes its connection, which ends only its own process."""
        return beam_fn_api_pb2.StopWorkerResponse()

    def _start(self, wanted: tuple[str, str]) -> BaseProcess:
        with self._forking:
            process = self._forked(wanted)
        self._processes.add(process)
        print(f"worker {process.pid} starts for {wanted[0]}", flush=True)
        return process

    @retry(
        retry=retry_if_exception_type((OSError, EOFError)),
        stop=stop_after_delay(DYING),
        wait=wait_fixed(0.1),
        reraise=True,
    )
    def _forked(self, wanted: tuple[str, str]) -> BaseProcess:
        """Starts a process. Retries while a killed fork server is ending; multiprocessing then starts a new one."""
        process = self._fork.Process(target=work, args=wanted)
        process.start()
        return process

    def _look_after(self, wanted: tuple[str, str], process: BaseProcess) -> None:
        """Restarts a killed or lost process, as a JVM that it had not reached yet would wait for it forever.

        A JVM that loses a process during its work has closed the address by then, and requests a new one.
        """
        for tries in range(TRIES):
            process.join()
            self._processes.discard(process)
            status = process.exitcode or 0
            print(f"worker {process.pid} {_ended(status)}", flush=True)
            if status == LOST:
                with suppress(ProcessLookupError):  # if it is alive, nothing else would stop it
                    os.kill(process.pid or 0, signal.SIGKILL)
            if 0 <= status != LOST or self._closed or tries == TRIES - 1:
                return
            process = self._start(wanted)


def _ended(status: int) -> str:
    if status == LOST:
        return "lost its fork server"
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def work(control: str, worker_id: str) -> None:
    """Works for the JVM at ``control`` until it closes the connection, and stops at once if the JVM disappears."""
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool handles Ctrl-C and stops its workers
    try:
        SdkHarness(control, worker_id=worker_id, data_buffer_time_limit_ms=-1).run()
    except grpc.RpcError as err:
        print(f"worker {os.getpid()}: {control} is gone: {err.code().name}", flush=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a shard whose result is no longer needed would keep a model and cores
