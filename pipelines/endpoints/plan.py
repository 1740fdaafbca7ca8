"""What workers need to ask an endpoint: small, immutable and picklable; the key comes from their environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.endpoints.prompts import prompts_of
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import fingerprint, spec_of

if TYPE_CHECKING:
    from captionbeam.pipelines.endpoints.processor import EndpointCaptioner


def checked_url(url: str) -> str:
    """Returns the base URL of an API, with ``/v1`` if it has no path.

    Raises RequestError, also for a URL that may have a key in it, which would be recorded.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") else None
        _ = parts.port
    except ValueError:
        host = None
    if not host:
        raise RequestError(
            "the endpoint's address is no URL; expected http://HOST:PORT/v1 or https://..., after openai: on the "
            "command line"
        )
    if parts.username or parts.password or parts.query or parts.fragment or ";" in url:
        raise RequestError(
            f"the endpoint's address {parts.scheme}://{host}... has more than a host and a path, which would be "
            "recorded; expected the key in the environment variable OPENAI_API_KEY of the workers"
        )
    return url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the model is asked, and how fast.

    url:         of the API, such as ``https://host/v1``; "" where each worker machine has a server of its own.
    command:     how a worker machine starts its server, with ``{port}``; "" where there is a ``url``.
    model:       what that server loads: a folder on the worker, or a name at Hugging Face.
    concurrency: requests in flight of one worker process.
    requests_per_minute, tokens_per_minute: limits of the whole run; None: no limit.
    timeout:     seconds until a request without an answer is repeated.
    start_timeout: seconds that a server of its own may take to start.
    """

    url: str = ""
    command: str = ""
    model: str = ""
    concurrency: int = 32
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 120.0
    start_timeout: float = 900.0


@dataclass(frozen=True)
class EndpointJob:
    """A worker job: images to answers of an endpoint."""

    spec: EndpointSpec
    endpoint: Endpoint

    def load(self, threads: int, processes: int = 1) -> EndpointCaptioner:
        """Returns the processor. Its model is elsewhere, so ``threads`` only prepare pictures. Raises SystemicError."""
        from captionbeam.pipelines.endpoints.processor import EndpointCaptioner

        return EndpointCaptioner(self.spec, self.endpoint)


@dataclass(frozen=True)
class EndpointPlan:
    """Rows of answers, as resolved on the launcher: like ``ModelPlan``."""

    options: EndpointSpec
    endpoint: Endpoint
    features = None

    @property
    def spec(self) -> dict[str, Any]:
        """The store's specification."""
        return spec_of(self.options)

    @property
    def fingerprint(self) -> str:
        """The hash of ``spec``."""
        return fingerprint(self.spec)

    @property
    def field(self) -> pa.Field:
        """The first column."""
        return prompts_of(self.options)[0].field

    def job(self, models_url: str) -> EndpointJob:
        """Returns the workers' job; nothing is copied to ``models_url``."""
        return EndpointJob(self.options, self.endpoint)
