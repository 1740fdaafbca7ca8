"""What an endpoint answers, as the answers of an image or as an error: of the image, of the endpoint, or for now."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from captionbeam.pipelines.endpoints.json_schema import parsed
from captionbeam.pipelines.endpoints.prompts import Answers, Prompt
from captionbeam.schemas.errors import ImageError, SystemicError
from captionbeam.schemas.storage.retrying import is_transient_status, parse_retry_after

LONGEST_SENTENCE = 300  # characters of a server's message
MAX_TOKENS = (1 << 31) - 1  # of the answers' column
REJECTED = (400, 413, 422)
FILTERED = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
TOO_MANY = 429

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of pairs, which no file can have
_DATA_URL = re.compile(r"data:[\w/.+-]+;base64,[\w+/=-]*")


class Transient(Exception):
    """The same request may succeed later. ``wait``: seconds that the server asks for; 0 if it does not.

    ``code``: of the image's failure if it does not. ``reached``: the server took the request. ``limited``: it
    limits the rate of requests.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        wait: float = 0.0,
        reached: bool = True,
        limited: bool = False,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.wait = code, message, wait
        self.reached, self.limited = reached, limited


class NotACompletion(Transient):
    """An answer with status 200 that is no chat completion."""


class Rejected(ImageError):
    """The server rejects the request for an image."""

    def __init__(self, message: str) -> None:
        super().__init__("rejected", "model", message)


class BrokenSchema(ValueError):
    """No answer of a completion is valid by the prompt's schema."""


@dataclass(frozen=True)
class Completion:
    """A chat completion: its choices, its tokens (None where the server does not count them) and the model's name."""

    choices: list[dict[str, Any]]
    tokens_in: int | None
    tokens_out: int | None
    model: str | None


def completion_of(response: httpx.Response) -> Completion:
    """Returns the completion in a response. Raises Rejected, ImageError, Transient, SystemicError and nothing else.

    The messages are the server's, as they are: they may have secrets, many lines and any length (see ``sentence``).
    SystemicError has the status only.
    """
    try:
        return _completion(response)
    except (ImageError, SystemicError, Transient):
        raise
    except Exception as err:  # a server may answer anything, and no answer may stop a job with a traceback
        raise _no_completion(response) from err


def _completion(response: httpx.Response) -> Completion:
    body = _json(response)
    status = _status(response, body)
    if status != 200:
        raise _error(response, status, body)
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise _no_completion(response)
    usage = body.get("usage")
    if not isinstance(usage, dict):
        usage = {}
    return Completion(
        choices,
        _number(usage.get("prompt_tokens")),
        _number(usage.get("completion_tokens")),
        _string(body.get("model")),
    )


def _no_completion(response: httpx.Response) -> NotACompletion:
    status = response.status_code
    return NotACompletion("unavailable", f"status {status} without a chat completion: {_content(response)}")


def answers_of(found: Completion, prompt: Prompt, max_new_tokens: int | None) -> Answers:
    """Returns the usable choices of a completion. Raises ImageError, BrokenSchema if there is none.

    The tokens of all choices together stand at the first.
    """
    answers: Answers = []
    errors: list[ImageError | BrokenSchema] = []
    for choice in found.choices:
        try:
            answers.append(_answer(choice, found, prompt, max_new_tokens))
        except (ImageError, BrokenSchema) as err:
            errors.append(err)
    if answers:
        answers[0] |= {"tokens_in": found.tokens_in, "tokens_out": found.tokens_out}
        return answers
    raise errors[0] if errors else ImageError("no_answer", "model", "the completion has no choices")


def _answer(
    choice: Mapping[str, Any], found: Completion, prompt: Prompt, max_new_tokens: int | None
) -> dict[str, Any]:
    message, reason = choice.get("message") or {}, _string(choice.get("finish_reason"))
    if not isinstance(message, dict):
        raise ImageError("no_answer", "model", f"the message is {json.dumps(message)}; expected an object")
    refusal = message.get("refusal")
    if refusal or reason == "content_filter":
        said = refusal or "finish_reason content_filter"
        raise ImageError("refused", "model", said if isinstance(said, str) else json.dumps(said))
    if reason == "length":
        limit = "the model's limit" if max_new_tokens is None else f"--max-new-tokens {max_new_tokens}"
        count = "" if found.tokens_out is None else f" after {found.tokens_out} tokens"
        raise ImageError("cut_off", "model", f"the answer ends{count}; expected it to end within {limit}")
    text = _text(message.get("content")).strip()
    if not text:
        raise ImageError("no_answer", "model", f"the answer is empty (finish_reason {reason})")
    answer = {
        "text": text,
        "finish_reason": reason,
        "tokens_in": None,
        "tokens_out": None,
        "model": found.model,
    }
    if prompt.schema is None:
        return answer
    try:
        return answer | {"value": parsed(text, prompt.schema)}
    except ValueError as err:
        raise BrokenSchema(str(err)) from err


def _text(content: object) -> str:
    """Returns a message's text; some servers answer in parts."""
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [_string(part.get("text")) for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if text is not None)


def _error(response: httpx.Response, status: int, body: Any) -> Exception:
    said, code = said_by(body) or _content(response), _code(body)
    message = f"status {status}" + (f": {said}" if said else "")
    if status in REJECTED and FILTERED & {code, _inner_code(body)}:
        return ImageError("refused", "model", said or code)
    if code in ("model_not_found", "insufficient_quota"):
        return SystemicError(message)
    if is_transient_status(status):
        wait = _wait(response.headers)
        return Transient("unavailable", message, wait=wait, limited=status == TOO_MANY)
    return Rejected(said or message) if status in REJECTED else SystemicError(message)


def _json(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _content(response: httpx.Response) -> str:
    """Returns the body as text, whatever charset its header names."""
    return response.content.decode("utf-8", "replace").strip()


def _status(response: httpx.Response, body: Any) -> int:
    """Returns the status; some gateways answer 200 with an error in the body, whose code is the status."""
    error = body.get("error") if isinstance(body, dict) else None
    inside = error.get("code") if isinstance(error, dict) else None
    if isinstance(inside, str) and re.fullmatch("[45][0-9][0-9]", inside):
        inside = int(inside)
    gateway = response.status_code == 200 and isinstance(inside, int) and 400 <= inside < 600
    return inside if gateway and isinstance(inside, int) else response.status_code


def _number(value: object) -> int | None:
    """Returns a number of tokens; None for anything else."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS
    return value if is_number and isinstance(value, int) else None


def _string(value: object) -> str | None:
    """Returns a string as Unicode text; None for anything else."""
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else None


def _wait(headers: httpx.Headers) -> float:
    """Returns the seconds that the server asks to wait; 0 if it does not."""
    try:
        asked = float(headers["retry-after-ms"]) / 1000
        return asked if 0 <= asked < float("inf") else 0.0
    except (KeyError, ValueError):
        return parse_retry_after(headers.get("retry-after"))


def said_by(body: Any) -> str:
    """Returns the server's sentence in an error's body; "" if there is none.

    OpenAI has it in ``error.message``, older vLLM in ``message``, FastAPI in ``detail``.
    """
    if not isinstance(body, dict):
        return ""
    error = body.get("error")
    found = error.get("message") if isinstance(error, dict) else error
    detail = body.get("detail")
    if isinstance(detail, list):
        detail = "; ".join(str(part.get("msg")) for part in detail if isinstance(part, dict))
    said = next((text for text in (found, body.get("message"), detail) if isinstance(text, str)), "")
    return said.strip()


def sentence(text: str) -> str:
    """Returns a server's text in one printable line of limited length, without the picture that some servers repeat.

    It may be cut in the middle of a secret, so secrets must be masked before.
    """
    line = " ".join(_DATA_URL.sub("data:...", text).split())
    line = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", line)
    return line if len(line) <= LONGEST_SENTENCE else line[: LONGEST_SENTENCE - 3] + "..."


def _code(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""


def _inner_code(body: Any) -> str:
    """Returns the code by which Azure says that its filter rejects a request."""
    inner = body["error"].get("innererror") if _code(body) else None
    found = str(inner.get("code")) if isinstance(inner, dict) else ""
    return "content_filter" if found == "ResponsibleAIPolicyViolation" else found
