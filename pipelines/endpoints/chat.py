"""One request to an endpoint: OpenAI's chat completions with a picture, retried, with errors as ours."""

from __future__ import annotations

from collections import Counter
from typing import Any

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.endpoints.pace import Pace
from captionbeam.pipelines.endpoints.prompts import Prompt

Answers = list[dict[str, Any]]
"""The answers of one image to one prompt, best first: values of the prompt's column (``answers_field``)."""


class ChatClient:
    """Requests to one endpoint. Threads may share it."""

    def __init__(self, url: str, spec: EndpointSpec, pace: Pace, concurrency: int, timeout: float) -> None:
        raise NotImplementedError

    def ask(self, picture: str, prompt: Prompt, counts: Counter[str]) -> Answers:
        """Returns the answers to ``prompt`` about ``picture``, a URL or a ``data:`` URL.

        Adds ``requests``, ``retries``, ``tokens_in`` and ``tokens_out`` to ``counts``. Raises ImageError,
        SystemicError.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Closes the connections."""
        raise NotImplementedError
