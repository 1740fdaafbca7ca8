"""A scripted server of OpenAI's chat completions: it answers as a test wants, and records what it is asked.

In a thread of the test's process (``scripted_endpoint``), or as a process of its own for kill trials and benchmarks
(``endpoint_process``, or ``python -m tests.builders.web.endpoint PORT --log FILE``), which prints its URL, then logs
each request as one line of JSON: ``time`` (seconds of the epoch), ``prompt`` and ``picture`` (SHA-256 of its bytes).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aiohttp import web

ROOT = Path(__file__).parents[3]
MODEL = "scripted"
AT_ONCE = 512  # replies computed at a time


@dataclass
class Request:
    """A request as the server got it. ``time``: its arrival, in seconds of the epoch."""

    json: Mapping[str, Any]
    headers: Mapping[str, str]  # names in any case
    time: float

    @cached_property
    def prompt(self) -> str:
        """The texts of the user's message."""
        return "\n".join(part["text"] for part in self._parts if part["type"] == "text")

    @cached_property
    def picture(self) -> bytes | str:
        """The bytes of the picture in a ``data:`` URL, or the picture's URL; b"" for a request without one."""
        url = next(
            (part["image_url"]["url"] for part in self._parts if part["type"] == "image_url"), "data:,"
        )
        return base64.b64decode(url.partition(",")[2]) if url.startswith("data:") else url

    @property
    def _parts(self) -> Sequence[Mapping[str, Any]]:
        content = next(said["content"] for said in self.json["messages"] if said["role"] == "user")
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    @property
    def digest(self) -> str:
        """The SHA-256 of the picture's bytes, or of its URL."""
        data = self.picture if isinstance(self.picture, bytes) else self.picture.encode()
        return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What the server answers.

    text:          of all ``n`` choices that the request asks for, or a sequence: one choice each.
    status:        other than 200: the body is an error whose message is the text, and whose code is ``code``.
    finish_reason, refusal, model: as in the API.
    tokens:        of the prompt and of the completion; None: the numbers of their words.
    headers:       more headers, such as ``Retry-After``.
    delay:         seconds until the answer, beside the server's latency.
    raw:           the body as it is; ``cut``: the connection breaks after so many bytes of the body (0: at once).
    """

    text: str | Sequence[str | None] | None = ""
    status: int = 200
    finish_reason: str = "stop"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    raw: bytes | None = None
    code: str | None = None
    refusal: str | None = None
    model: str = MODEL
    tokens: tuple[int, int] | None = None
    cut: int | None = None


Replies = Callable[[Request], Reply]


def default_reply(request: Request) -> Reply:
    """Answers with the prompt and the first 8 hex digits of the picture's SHA-256."""
    return Reply(f"{request.prompt} of {request.digest[:8]}")


def in_turn(*replies: Reply) -> Replies:
    """Gives the replies one after the other, whatever is asked, then default ones."""
    waiting, lock = list(replies), threading.Lock()

    def reply(request: Request) -> Reply:
        with lock:
            if waiting:
                return waiting.pop(0)
        return default_reply(request)

    return reply


class Endpoint:
    """The running server. ``url`` ends in ``/v1``; ``requests`` are chat completions in the order of arrival."""

    def __init__(self, reply: Replies, latency: float, keep: bool = True, model: str = MODEL) -> None:
        self.reply, self.latency, self.model, self._keep = reply, latency, model, keep
        self.url = ""
        self.requests: list[Request] = []
        self.in_flight = self.most_in_flight = 0
        self._pool = ThreadPoolExecutor(AT_ONCE, "reply")

    async def start(self, port: int) -> web.AppRunner:
        """Listens on 127.0.0.1; port 0: any free one."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _chat(self, asked: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            request = Request(json.loads(await asked.read()), asked.headers, time.time())
            if self._keep:
                self.requests.append(request)
            reply = await self._reply(request)
            await asyncio.sleep(self.latency + reply.delay)
            body = body_of(request, reply) if reply.raw is None else reply.raw
            if reply.cut is not None:
                return await _cut(asked, reply, body)
            return web.Response(
                body=body, status=reply.status, headers=reply.headers, content_type="application/json"
            )
        finally:
            self.in_flight -= 1

    async def _reply(self, request: Request) -> Reply:
        if self.reply is default_reply:
            return default_reply(request)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self.reply, request)  # it may wait


def body_of(request: Request, reply: Reply) -> bytes:
    """The body of a completion, or of an error, as OpenAI's API has them."""
    if reply.status != 200:
        error = {"message": reply.text, "type": "error", "param": None, "code": reply.code}
        return json.dumps({"error": error}).encode()
    single = reply.text is None or isinstance(reply.text, str)
    texts = [reply.text] * request.json.get("n", 1) if single else reply.text
    words = len(request.prompt.split()), sum(len((text or "").split()) for text in texts)
    tokens_in, tokens_out = reply.tokens or words
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": reply.refusal},
            "finish_reason": reply.finish_reason,
        }
        for index, text in enumerate(texts)
    ]
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": reply.model,
            "choices": choices,
            "usage": {
                "prompt_tokens": tokens_in,
                "completion_tokens": tokens_out,
                "total_tokens": tokens_in + tokens_out,
            },
        }
    ).encode()


async def _cut(asked: web.Request, reply: Reply, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    if reply.cut:
        response.content_length = len(body)
        await response.prepare(asked)
        await response.write(body[: reply.cut])
    if asked.transport is not None:
        asked.transport.close()
    return response


@contextmanager
def scripted_endpoint(
    reply: Replies = default_reply, latency: float = 0.0, port: int = 0, model: str = MODEL
) -> Iterator[Endpoint]:
    """A server in a thread of this process until the block ends; ``latency`` is in seconds, ``port`` 0 any free one.

    ``reply`` runs in a thread of its own for each request, so it may wait.
    """
    server, loop, started = Endpoint(reply, latency, model=model), asyncio.new_event_loop(), threading.Event()
    runner: list[web.AppRunner] = []

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner.append(loop.run_until_complete(server.start(port)))
        started.set()
        loop.run_forever()
        loop.run_until_complete(_ended(runner[0]))
        loop.close()

    thread = threading.Thread(target=serve, name="endpoint", daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError(f"no server on port {port}")
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        server._pool.shutdown(wait=False, cancel_futures=True)


async def _ended(runner: web.AppRunner) -> None:
    await runner.cleanup()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def endpoint_process(log: Path | None = None, latency: float = 0.0, port: int = 0) -> Iterator[str]:
    """The URL of a server in a process of its own until the block ends; it logs its requests to ``log``."""
    command = [sys.executable, "-m", "tests.builders.web.endpoint", str(port), "--latency", str(latency)]
    command += [] if log is None else ["--log", str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def logged(log: Path) -> list[dict[str, Any]]:
    """The requests in a process's log; a line that the process is still writing is not one of them."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--start-delay", type=float, default=0.0, help="seconds until it listens")
    asked = parser.parse_args()
    time.sleep(asked.start_delay)
    server = Endpoint(_logging(asked.log) if asked.log else default_reply, asked.latency, False, asked.model)

    async def serve() -> None:
        await server.start(asked.port)
        print(server.url, flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


def _logging(log: Path) -> Replies:
    stream = log.open("a", buffering=1)

    def reply(request: Request) -> Reply:
        line = {"time": request.time, "prompt": request.prompt, "picture": request.digest}
        stream.write(json.dumps(line) + "\n")
        return default_reply(request)

    return reply


if __name__ == "__main__":
    main()
