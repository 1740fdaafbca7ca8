"""One request to an endpoint: OpenAI's chat completions with a picture, retried, with errors as ours."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.endpoints.client.addresses import (
    KEY,
    address_of,
    key_of_environment,
    secrets_of,
    shown,
)
from captionbeam.pipelines.endpoints.client.body import request_body
from captionbeam.pipelines.endpoints.client.pace import Pace
from captionbeam.pipelines.endpoints.client.replies import (
    BrokenSchema,
    Completion,
    NotACompletion,
    Rejected,
    Transient,
    answers_of,
    completion_of,
    sentence,
)
from captionbeam.pipelines.endpoints.client.tries import FIRST_ANSWERS, FirstAnswers, Tries
from captionbeam.pipelines.endpoints.prompts import Answers, Prompt
from captionbeam.schemas.errors import ImageError, SystemicError

PATIENCE = 150.0  # seconds for which failed requests are repeated: a server may be away for two minutes
LIMITED_PATIENCE = 6  # times as long while the server limits the rate
FEWEST_TRIES = 4  # however long they take
FIRST_WAIT, LONGEST_WAIT = 0.5, 16.0  # seconds between tries: random, below a limit that doubles
MAX_RETRY_AFTER = 60.0  # maximum seconds taken from Retry-After
NOTICE_INTERVAL = 60.0  # least seconds between warnings of an endpoint that has not answered yet
RECENTLY = 60.0  # seconds since an answer for which the endpoint counts as alive
IN_SUCCESSION = 3  # images without an answer by which it does not
CONNECT_TIMEOUT = 20.0
KEEP_IDLE = 4.0  # seconds: uvicorn, below vLLM and others, closes idle connections after 5

_log = logging.getLogger(__name__)


class ChatClient:
    """Requests to one endpoint. Threads may share it; each has a connection of its own.

    ``timeout``: seconds until a request without an answer is repeated. ``patience``: seconds for which failed
    requests are repeated; ``first_patience``: the same for a server that cannot be reached and has not answered yet;
    ``first_wait``: the longest first pause. ``reconnect``: waits until a server that may be
    started again answers, and returns its URL, which may be another one.
    """

    def __init__(
        self,
        url: str,
        spec: EndpointSpec,
        pace: Pace,
        concurrency: int,
        timeout: float,
        *,
        patience: float = PATIENCE,
        first_patience: float | None = None,
        first_wait: float = FIRST_WAIT,
        reconnect: Callable[[], str] | None = None,
    ) -> None:
        self._spec, self._pace, self._patience, self._first_wait = spec, pace, patience, first_wait
        self._first_patience = patience if first_patience is None else first_patience
        self._reconnect = reconnect
        self._key = key_of_environment()
        self._set_url(url)
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._limits = httpx.Limits(max_connections=1, keepalive_expiry=KEEP_IDLE)
        self._verify = httpx.create_ssl_context()
        self._threads, self._lock = threading.local(), threading.Lock()
        self._https: list[httpx.Client] = []
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._stopped = threading.Event()
        self._answered = float("-inf")  # monotonic time
        self._unanswered = 0  # images in succession
        self._warned = float("-inf")  # monotonic time
        self._schemas: dict[str, FirstAnswers] = {}  # by the prompt's column
        self._request = FirstAnswers(alike=True)
        self._tokens_field = "max_tokens"
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each request, with the URL's query

    def ask(self, picture: str, prompt: Prompt, counts: Counter[str]) -> Answers:
        """Returns the answers to ``prompt`` about ``picture``, a URL or a ``data:`` URL.

        If none is valid by the prompt's schema, asks once more, with another seed: servers give the same answers to
        the same request. Adds ``requests``, ``retries``, ``tokens_in`` and ``tokens_out`` to ``counts``. Raises
        ImageError, SystemicError.
        """
        seed = self._spec.seed
        try:
            return self._valid_answers(picture, prompt, seed, counts)
        except BrokenSchema:
            counts["retries"] += 1
        try:
            return self._valid_answers(picture, prompt, None if seed is None else seed + 1, counts)
        except BrokenSchema as err:
            raise ImageError("invalid_json", "model", self._clean(str(err))) from err

    def close(self) -> None:
        """Closes the connections."""
        self._stopped.set()
        self._pace.close()
        for connected in list(self._sockets):
            _shut(connected)  # wakes threads that wait for an answer
        with self._lock:
            clients, self._https = self._https, []
        for client in clients:
            client.close()

    def _set_url(self, url: str) -> None:
        self._address, self._named = address_of(url), f"{shown(url)} (model {self._spec.endpoint})"
        self._secrets = secrets_of(url, self._key)

    def _valid_answers(self, picture: str, prompt: Prompt, seed: int | None, counts: Counter[str]) -> Answers:
        found = self._completion(picture, prompt, seed, counts)
        heeded = self._schemas.setdefault(prompt.column, FirstAnswers())
        try:
            answers = answers_of(found, prompt, self._spec.max_new_tokens)
        except BrokenSchema as err:
            if heeded.bad(str(err)):
                raise SystemicError(
                    f"the first {FIRST_ANSWERS} answers of {self._named} break the schema of prompt "
                    f"{prompt.column}: {self._clean(str(err))}; expected an endpoint that heeds response_format"
                ) from err
            raise
        except ImageError as err:
            raise ImageError(err.code, err.stage, self._clean(err.message)) from err
        if prompt.schema is not None:
            heeded.good()
        return answers

    def _completion(self, picture: str, prompt: Prompt, seed: int | None, counts: Counter[str]) -> Completion:
        """Returns a completion, however many tries it takes."""
        tries = Tries()
        while True:
            counts["requests"] += 1
            try:
                found = self._request_once(picture, prompt, seed, counts)
            except Transient as err:
                tries.failed()
                if self._used_up(tries, err):
                    raise self._no_answer(tries, err) from err
                self._warn(err)
                self._rest(tries, err)
                counts["retries"] += 1
            except OtherField:
                counts["retries"] += 1
            else:
                return found

    def _request_once(
        self, picture: str, prompt: Prompt, seed: int | None, counts: Counter[str]
    ) -> Completion:
        """Sends one request. Raises Transient, OtherField, ImageError, SystemicError."""
        field_name = self._tokens_field
        reserved = self._pace.wait()
        try:
            found = completion_of(self._post(request_body(self._spec, picture, prompt, seed, field_name)))
        except Transient as err:
            if err.limited:
                self._pace.used(0, reserved)
            raise
        except Rejected as err:
            self._alive()
            self._pace.used(0, reserved)
            raise self._rejected(err, field_name) from err
        except ImageError as err:
            self._alive()
            raise ImageError(err.code, err.stage, self._clean(err.message)) from err
        except SystemicError as err:
            raise self._systemic(str(err)) from err
        self._alive()
        self._request.good()
        tokens_in, tokens_out = found.tokens_in or 0, found.tokens_out or 0
        self._pace.used(tokens_in + tokens_out, reserved)
        counts["tokens_in"] += tokens_in
        counts["tokens_out"] += tokens_out
        return found

    def _post(self, body: bytes) -> httpx.Response:
        if self._stopped.is_set():
            raise self._ended()
        try:
            return self._http().post(self._address, content=body, extensions={"trace": self._trace})
        except httpx.ConnectTimeout as err:
            message = f"no connection within {self._timeout.connect:g} s"
            raise Transient("unavailable", message, reached=False) from err
        except httpx.TimeoutException as err:
            raise Transient("timeout", f"no answer within {self._timeout.read:g} s") from err
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as err:
            raise SystemicError(str(err)) from err
        except httpx.RequestError as err:
            message = str(err) or type(err).__name__
            raise Transient("unavailable", message, reached=not isinstance(err, httpx.ConnectError)) from err

    def _http(self) -> httpx.Client:
        """Returns the thread's client. One for all threads would look through all its connections at each request."""
        client: httpx.Client | None = getattr(self._threads, "client", None)
        if client is None:
            headers = {"Content-Type": "application/json"} | (
                {"Authorization": f"Bearer {self._key}"} if self._key else {}
            )
            client = httpx.Client(
                headers=headers, timeout=self._timeout, limits=self._limits, verify=self._verify
            )
            self._threads.client = client
            with self._lock:
                self._https.append(client)
        return client

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._sockets.add(info["return_value"].get_extra_info("socket"))

    def _rejected(self, err: Rejected, tokens_field: str) -> Exception:
        """Returns what a rejected request means: a field of another name, a wrong request, or a wrong image."""
        if tokens_field == "max_tokens" and "max_completion_tokens" in err.message:
            self._tokens_field = "max_completion_tokens"
            return OtherField()
        message = self._clean(err.message)
        if self._request.bad(message):
            return SystemicError(f"{self._named} rejects the first {FIRST_ANSWERS} requests: {message}")
        return ImageError(err.code, err.stage, message)

    def _alive(self) -> None:
        self._answered, self._unanswered = time.monotonic(), 0

    def _used_up(self, tries: Tries, err: Transient) -> bool:
        if isinstance(err, NotACompletion) and self._answered == float("-inf"):
            return tries.count >= FEWEST_TRIES
        return tries.count >= FEWEST_TRIES and tries.seconds >= self._patience_with(err)

    def _patience_with(self, err: Transient) -> float:
        if not err.reached and self._answered == float("-inf"):
            return self._first_patience
        return self._patience * (LIMITED_PATIENCE if err.limited else 1)

    def _warn(self, err: Transient) -> None:
        """Logs that the endpoint has not answered yet, so that nobody waits for a wrong address without a word."""
        with self._lock:
            now = time.monotonic()
            recently = now - self._warned < NOTICE_INTERVAL
            needless = self._stopped.is_set() or self._answered > float("-inf")
            if recently or needless or isinstance(err, NotACompletion):
                return
            self._warned = now
        reason, patience = self._clean(err.message), self._patience_with(err)
        _log.warning("the endpoint %s does not answer: %s; trying for %g s", self._named, reason, patience)

    def _no_answer(self, tries: Tries, err: Transient) -> Exception:
        """Returns the error of an image without an answer: its own, or the endpoint's.

        An endpoint that does answer, though not about this image, counts as alive: one such image must not stop a
        job that has nothing else left to ask.
        """
        with self._lock:
            self._unanswered += 1
            unanswered = self._unanswered
        reason = self._clean(err.message)
        if isinstance(err, NotACompletion) and self._answered == float("-inf"):
            return SystemicError(f"{self._named} answers {reason}; expected the base URL of OpenAI's API")
        recently = time.monotonic() - self._answered < RECENTLY
        if not recently and (not err.reached or err.limited or unanswered >= IN_SUCCESSION):
            return SystemicError(
                f"the endpoint {self._named} does not answer: {reason}, in {tries.count} tries within "
                f"{tries.seconds:.0f} s; the same command resumes"
            )
        return ImageError(err.code, "model", f"{reason}, in {tries.count} tries within {tries.seconds:.0f} s")

    def _rest(self, tries: Tries, err: Transient) -> None:
        """Waits as long as the server asks, and a random time; all threads wait where the server limits the rate."""
        backoff = random.uniform(0, min(LONGEST_WAIT, self._first_wait * 2**tries.count))
        asked = min(err.wait, MAX_RETRY_AFTER)
        if err.limited:
            self._pace.pause(asked or backoff)
        if self._stopped.wait(asked + backoff):
            raise self._ended()
        if self._reconnect is not None:
            self._set_url(self._reconnect())

    def _systemic(self, message: str) -> SystemicError:
        message = self._clean(message)
        if message.startswith("status 401"):
            state = "is not valid there" if self._key else "is not set"
            return SystemicError(
                f"{self._named} answers {message}; {KEY} {state} in the workers' environment"
            )
        if message.startswith("status 404"):
            return SystemicError(
                f"{self._named} answers {message}; expected a model that the endpoint serves, at the base URL of "
                "its API (ending in /v1)"
            )
        return SystemicError(f"{self._named} answers {message}")

    def _ended(self) -> SystemicError:
        return SystemicError(f"the requests to {self._named} were stopped")

    def _clean(self, message: str) -> str:
        """Returns a message as a sentence without passwords, tokens and keys."""
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return sentence(message)


class OtherField(Exception):
    """The server has another name for a field of the request."""


def _shut(connected: socket.socket) -> None:
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed
