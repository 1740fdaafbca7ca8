"""The worker pool: a process for each JVM that asks, and nobody stopped but by its own JVM."""

from __future__ import annotations

import queue
import signal
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

from captionbeam.pipelines.runners.worker_pool import WorkerPool
from captionbeam.schemas.errors import RequestError
from tests.builders.engines.worker_pool import worker_pool
from tests.builders.running.processes import await_true
from tests.builders.web.servers import free_port

pytestmark = pytest.mark.engines


class Jvm(beam_fn_api_pb2_grpc.BeamFnControlServicer):
    """The control service of an executor, which does no more than hear who connects."""

    def __init__(self, port):
        self.address, self.connected = f"localhost:{port}", queue.Queue()
        self.server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(self, self.server)

    def serve(self):
        self.server.add_insecure_port(self.address)
        self.server.start()

    def Control(self, responses, context):  # noqa: N802
        self.connected.put(dict(context.invocation_metadata())["worker_id"])
        done = queue.Queue()
        context.add_callback(lambda: done.put(None))
        done.get()
        yield from ()


@pytest.fixture
def pool():
    with WorkerPool() as pool:
        yield pool


def ask(pool, jvm, worker_id="1-1"):
    """What an executor asks its pool for."""
    with grpc.insecure_channel(f"localhost:{pool.port}") as channel:
        endpoint = endpoints_pb2.ApiServiceDescriptor(url=jvm.address)
        request = beam_fn_api_pb2.StartWorkerRequest(worker_id=worker_id, control_endpoint=endpoint)
        beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel).StartWorker(request, timeout=60)


def stop(pool, worker_id="1-1"):
    with grpc.insecure_channel(f"localhost:{pool.port}") as channel:
        request = beam_fn_api_pb2.StopWorkerRequest(worker_id=worker_id)
        beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel).StopWorker(request, timeout=60)


def only_worker(pool):
    (process,) = pool._processes
    return psutil.Process(process.pid)


def test_two_jvms_whose_workers_have_one_name(pool):
    """Each executor counts its workers from 1; stopping one's leaves the other's alone."""
    first, second = Jvm(free_port()), Jvm(free_port())
    first.serve()
    second.serve()
    ask(pool, first)
    (of_first,) = pool._processes
    assert first.connected.get(timeout=60) == "1-1"
    ask(pool, second)
    assert second.connected.get(timeout=60) == "1-1"
    stop(pool)
    first.server.stop(0)
    await_true("the end of the first worker", lambda: of_first not in pool._processes)
    assert only_worker(pool).is_running()
    second.server.stop(0)
    await_true("the end of the second worker", lambda: not pool._processes)


def test_a_worker_killed_before_it_connected_is_started_again(pool):
    """Else its executor would wait for it for ever."""
    jvm = Jvm(free_port())
    ask(pool, jvm, "7-1")
    killed = only_worker(pool)
    killed.kill()
    await_true("another worker", lambda: pool._processes and only_worker(pool).pid != killed.pid)
    jvm.serve()
    assert jvm.connected.get(timeout=60) == "7-1"
    jvm.server.stop(0)
    await_true("its end", lambda: not pool._processes)


def test_a_worker_whose_fork_server_is_killed_is_started_again(pool):
    """Nobody could stop it any more, nor learn of its end."""
    jvm = Jvm(free_port())
    jvm.serve()
    ask(pool, jvm, "7-1")
    assert jvm.connected.get(timeout=60) == "7-1"
    lost = only_worker(pool)
    lost.parent().kill()
    assert jvm.connected.get(timeout=60) == "7-1"
    assert only_worker(pool).pid != lost.pid
    await_true("the end of the lost one", lambda: not is_alive(lost))
    jvm.server.stop(0)
    await_true("its end", lambda: not pool._processes)


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_service_that_is_stopped_leaves_nothing(tmp_path, number):
    """``captionbeam workers``, stopped as systemd or Ctrl-C does."""
    jvm = Jvm(free_port())
    jvm.serve()
    with worker_pool(tmp_path) as pool:
        ask(pool, jvm)
        jvm.connected.get(timeout=60)
        below = psutil.Process(pool.process.pid).children(recursive=True)
        assert set(pool.workers()) < set(below)
        pool.process.send_signal(number)
        assert pool.process.wait(timeout=60) == 0
        await_true("the end of what it started", lambda: not any(is_alive(process) for process in below))
        assert "Traceback" not in pool.log.read_text()
    jvm.server.stop(0)


def is_alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_port_that_somebody_has(pool):
    with pytest.raises(RequestError, match=rf"port {pool.port} of localhost cannot be listened on"):
        WorkerPool(pool.port)
