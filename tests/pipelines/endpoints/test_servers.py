"""A model server on a machine: real processes that use it, kill it, and are killed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.endpoints.plan import Endpoint
from captionbeam.pipelines.endpoints.processor import EndpointCaptioner
from captionbeam.pipelines.endpoints.servers import folder as folder_module
from captionbeam.pipelines.endpoints.servers import server as server_module
from captionbeam.pipelines.endpoints.servers import supervisor
from captionbeam.pipelines.endpoints.servers.folder import ServerFolder
from captionbeam.pipelines.endpoints.servers.server import Server, server_words
from captionbeam.schemas.errors import RequestError, SystemicError
from tests.builders.data.images import drawn, encoded
from tests.builders.running.commands import ROOT
from tests.builders.running.processes import await_true

ENDPOINT = f"{sys.executable} {ROOT}/tests/builders/web/endpoint.py {{port}} --model {{model}}"
USER = """
import sys
from captionbeam.pipelines.endpoints.servers.server import Server
with Server(sys.argv[1], "tiny", "tiny", 60) as server:
    print(server.url, flush=True)
    sys.stdin.readline()
"""
engines = pytest.mark.engines


@pytest.fixture(autouse=True)
def temp(tmp_path, monkeypatch):
    """A temp directory, whose servers are gone at the end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    await_true("the end of all servers", lambda: not servers(tmp_path) and not supervisors(tmp_path))


def servers(temp):
    """The servers (and what they started) below a temp directory."""
    return list(living(lambda process: process.environ().get(supervisor.MARK, "").startswith(str(temp))))


def supervisors(temp):
    """The supervisors whose folder is below a temp directory."""
    name = supervisor.__name__
    return list(living(lambda each: name in each.cmdline() and each.cmdline()[3].startswith(str(temp))))


def living(wanted):
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and wanted(process):
                yield process


def answers(url):
    with urllib.request.urlopen(f"{url}/models", timeout=5) as answer:
        return answer.status == 200


def python(code):
    """The command of a server that is a line of Python."""
    return f'{sys.executable} -c "{code}" {{port}}'


@contextmanager
def user(command=ENDPOINT):
    """A process that uses the server, and the URL that it was given; it leaves at the block's end."""
    words = [sys.executable, "-c", USER, command]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as process:
        yield process, process.stdout.readline().strip()
        if process.poll() is None:
            process.communicate("leave\n")


@engines
def test_the_processes_of_a_machine_share_one_server_until_the_last_leaves(temp):
    with ExitStack() as last, ExitStack() as others:
        with ThreadPoolExecutor(3) as at_once:
            users = list(at_once.map(lambda stack: stack.enter_context(user()), (last, others, others)))
        (url,) = {url for _, url in users}
        (server,) = servers(temp)
        others.close()
        time.sleep(2 * supervisor.LINGER_SECONDS)
        assert servers(temp) == [server]
        assert answers(url)
    await_true("the server's end", lambda: not servers(temp), 5)
    await_true("the supervisor's end", lambda: not supervisors(temp), 5)


@engines
def test_threads_of_a_process_share_it_too(temp):
    def use(_):
        with Server(ENDPOINT, "tiny", "tiny", 60) as server:
            together.wait(60)
            return server.url, server.wait_until_healthy(), len(servers(temp))

    together = threading.Barrier(3)
    with ThreadPoolExecutor(3) as at_once:
        ((url, again, number),) = set(at_once.map(use, range(3)))
    assert (url, number) == (again, 1)


@engines
def test_each_model_has_a_server_of_its_own(temp):
    with Server(ENDPOINT, "tiny", "tiny", 60) as tiny, Server(ENDPOINT, "other", "tiny", 60) as other:
        assert tiny.url != other.url
        assert len(servers(temp)) == 2


@engines
def test_the_server_ends_when_all_its_users_are_killed(temp):
    with user() as (first, _), user() as (second, _):
        first.kill()
        time.sleep(2 * supervisor.LINGER_SECONDS)
        assert len(servers(temp)) == 1
        second.kill()
        second.wait()
        started = time.monotonic()
        await_true("the server's end", lambda: not servers(temp), 10)
        assert time.monotonic() - started < 4


@engines
def test_a_killed_server_is_started_again(temp):
    with Server(ENDPOINT, "tiny", "tiny", 60) as server:
        for _ in range(4):  # more than the deaths of one that never becomes ready
            (process,) = servers(temp)
            process.kill()
            process.wait(5)
            assert answers(server.wait_until_healthy())
            assert servers(temp) != [process]


@engines
def test_a_server_that_hangs_is_started_again(temp, monkeypatch):
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(supervisor, "HUNG_SECONDS", 1.0)
    words = [word.replace("{model}", "tiny") for word in ENDPOINT.split()]
    folder = ServerFolder.of(words)
    lease = folder.lease()
    watching = multiprocessing.get_context("fork").Process(target=supervisor.Supervisor(folder, words).run)
    watching.start()
    await_true("a server", lambda: folder.state().url)
    (process,) = servers(temp)
    process.suspend()
    process.wait(20)
    await_true("the next one", lambda: folder.state().url and servers(temp) != [process])
    assert answers(folder.state().url)
    lease.release()
    watching.join(20)
    assert not servers(temp)


@engines
def test_no_request_is_lost_when_servers_and_supervisors_are_killed(temp):
    pictures = [encoded(drawn(20 + number, 20), "JPEG") for number in range(120)]
    texts = ask_about(pictures, lambda: [servers(temp), supervisors(temp), servers(temp)])
    assert texts == [f"What? of {hashlib.sha256(picture).hexdigest()[:8]}" for picture in pictures]


def ask_about(pictures, victims):
    """The answers about pictures, while a server, its supervisor and the next server are killed."""
    captioner = EndpointCaptioner(
        EndpointSpec("tiny", {"captions": {"text": "What?"}}),
        Endpoint(command=f"{ENDPOINT} --latency 0.2", model="tiny", concurrency=8),
    )

    def ask(picture):
        (answers,) = captioner.run([captioner.prepare(picture)], ["id"])["captions"].to_pylist()
        return answers[0]["text"]

    with ThreadPoolExecutor(8) as at_once:
        found = [at_once.submit(ask, picture) for picture in pictures]
        for number in range(3):
            found[10 * number].result()
            for victim in victims()[number]:
                victim.kill()
        return [answer.result() for answer in found]


@engines
def test_the_server_of_a_killed_supervisor_ends_and_users_start_a_new_one(temp):
    with Server(ENDPOINT, "tiny", "tiny", 60) as server:
        (process,), (watching,) = servers(temp), supervisors(temp)
        watching.kill()
        process.wait(5)
        assert answers(server.wait_until_healthy())
        assert len(supervisors(temp)) == len(servers(temp)) == 1


@engines
def test_what_a_killed_supervisor_left_behind_is_ended_first(temp, monkeypatch):
    """Here a server that ignores SIGTERM."""
    stubborn = python(
        "import http.server as h,signal,sys;signal.signal(15,signal.SIG_IGN);"
        "h.test(h.SimpleHTTPRequestHandler,port=int(sys.argv[1]))"
    )
    (temp / "health").touch()  # the path that it answers
    monkeypatch.chdir(temp)
    with Server(stubborn, "tiny", "tiny", 60) as server:
        (process,), (watching,) = servers(temp), supervisors(temp)
        watching.kill()
        watching.wait(5)
        server.wait_until_healthy()
        process.wait(5)
        server.wait_until_healthy()
        assert process not in servers(temp)


@engines
def test_its_processes_without_an_environment_are_ended_too(temp, monkeypatch):
    """Like vLLM's, which hold the GPU's memory and outlive a server that is killed."""
    parent = python(
        "import http.server as h,subprocess as s,sys;"
        "s.Popen([sys.executable,'-c','import time;time.sleep(600)'],env={},start_new_session=True);"
        "h.test(h.SimpleHTTPRequestHandler,port=int(sys.argv[1]))"
    )
    (temp / "health").touch()  # the path that it answers
    monkeypatch.chdir(temp)
    with Server(parent, "tiny", "tiny", 60) as server:
        (process,), (watching,) = servers(temp), supervisors(temp)
        (child,) = process.children()
        for killed in (watching, process):
            killed.kill()
        server.wait_until_healthy()
        child.wait(5)
        (process,) = servers(temp)
        (child,) = process.children()
    child.wait(5)


@engines
def test_a_slow_start_is_waited_for(temp):
    command = f"{ENDPOINT} --start-delay 3"
    started = time.monotonic()
    with user(command) as (_, first), user(command) as (_, second):
        assert time.monotonic() - started > 3
        assert answers(first)
        assert first == second
        assert len(servers(temp)) == 1


@engines
def test_a_slow_start_is_told_once(temp, monkeypatch, caplog):
    monkeypatch.setattr(server_module, "NOTICE_SECONDS", 0.5)
    with Server(f"{ENDPOINT} --start-delay 2", "tiny", "tiny", 60):
        (record,) = [record for record in caplog.records if record.name == server_module.__name__]
        assert record.levelname == "WARNING"
        assert "is not ready yet; trying for 60 s; its log: " in record.getMessage()


@engines
def test_a_server_that_is_not_ready_in_time(temp):
    silent = python("print('loading weights',flush=True);import time;time.sleep(60)")
    with pytest.raises(SystemicError) as raised, Server(silent, "tiny", "tiny", 2):
        pass
    log = r"\S+/server.log"
    expected = rf"the server '.*' is not ready after 2 s; its log \({log}\) ends: loading weights"
    assert re.fullmatch(expected, str(raised.value))
    await_true("the server's end", lambda: not servers(temp), 5)


@engines
def test_a_server_that_never_becomes_ready(temp):
    broken = python("print('loading weights');raise SystemExit('out of memory')")
    with pytest.raises(SystemicError) as raised, Server(broken, "tiny", "tiny", 60):
        pass
    log = r"\S+/server.log"
    expected = (
        rf"the server '.*' died 3 times before it was ready; its log \({log}\) says: .* / out of memory"
    )
    assert re.match(expected, str(raised.value))
    with Server(ENDPOINT, "tiny", "tiny", 60) as server:  # others are not affected
        assert answers(server.url)


def test_a_command_that_is_not_installed():
    expected = "vllm is not installed on this worker; expected pip install vllm, or another --server-command"
    with (
        pytest.raises(SystemicError, match=expected),
        Server("vllm serve {model} --port {port}", "tiny", "tiny", 5),
    ):
        pass


def test_the_errors_of_a_server_of_many_processes(temp):
    folder = ServerFolder.of(["a"])
    start = (
        "(Worker pid=7) ERROR 12-01 04:10:26 [executor.py:953]     raise ValueError(reason)\n"
        "(Worker pid=7) ERROR 12-01 04:10:26 [executor.py:953] torch.OutOfMemoryError: Tried to allocate 2 GiB\n"
        "    raise RuntimeError(\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
        "leaked semaphores\n"
    )
    folder.log.write_text(start * 3)
    assert folder.errors() == (
        "torch.OutOfMemoryError: Tried to allocate 2 GiB / "
        "RuntimeError: Engine core initialization failed. See root cause above."
    )


@pytest.mark.parametrize("command", ["", "vllm serve {model}", "vllm serve --port {port} 'open"])
def test_a_wrong_command(command):
    with pytest.raises(RequestError, match="^server-command is "):
        Server(command, "tiny", "tiny", 5)


def test_braces_in_a_command_are_its_own():
    command = """serve {model} {name} --port={port} --limit '{"image": 1}'"""
    assert server_words(command, "a b", "c") == [
        "serve",
        "a b",
        "c",
        "--port={port}",
        "--limit",
        '{"image": 1}',
    ]


def test_a_long_log_is_shortened(temp, monkeypatch):
    monkeypatch.setattr(folder_module, "LOG_BYTES", 100_000)
    folder = ServerFolder.of(["serve"])
    with folder.log.open("a") as log:
        for number in range(20_000):
            print(f"line {number}", file=log)
        log.flush()
        folder.keep_up()
        print("the last", file=log, flush=True)
    assert folder.last_lines(2) == "line 19999 / the last"
    assert folder.log.stat().st_size < 70_000


def test_a_folder_that_others_can_use_is_refused(temp):
    folder = Path(temp) / f"captionbeam-{os.getuid()}"
    folder.mkdir(mode=0o755)
    with pytest.raises(SystemicError, match=f"^{folder} is not a folder that only user"):
        Server(ENDPOINT, "tiny", "tiny", 5).__enter__()
    folder.rmdir()
    folder.symlink_to(temp)
    with pytest.raises(SystemicError, match=f"^{folder} is not a folder that only user"):
        Server(ENDPOINT, "tiny", "tiny", 5).__enter__()
