"""gcsfs with our patience. fsspec loads it for ``gs://`` in place of gcsfs's own class."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import aiohttp
import google.auth.exceptions
from gcsfs import GCSFileSystem
from gcsfs.retry import HttpError, is_retriable

from schemas import patience

_GONE = 404
_ask = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)  # without gcsfs's own tries
_told: ContextVar[str | None] = ContextVar("told", default=None)


class PatientGCSFileSystem(GCSFileSystem):
    """Every request goes through ``_request``: reads, listings, uploads part by part."""

    session_kwargs: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=patience.CONNECT_SECONDS, sock_read=patience.SILENT_SECONDS
        )
        self.session_kwargs = {"timeout": timeout, "middlewares": (_hear,), **self.session_kwargs}

    async def _request(self, method: str, *args: Any, **kwargs: Any) -> Any:
        async def ask(attempt: int) -> Any:
            _told.set(None)
            try:
                return await _ask(self, method, *args, **kwargs)
            except FileNotFoundError:
                if method == "DELETE" and attempt > 1:  # the answer to an earlier try got lost
                    return 204, {}, None, b""
                raise
            except Exception as err:
                patience.note(err, _told.get())
                raise

        return await patience.patiently(ask, _passes)


async def _hear(request: Any, handler: Any) -> Any:
    response = await handler(request)
    _told.set(response.headers.get("Retry-After"))
    return response


def _passes(error: BaseException) -> bool:
    if isinstance(error, HttpError) and str(error.code).isdigit() and patience.passes_by(int(error.code)):
        return True
    transport = (TimeoutError, ConnectionError, google.auth.exceptions.TransportError)
    return isinstance(error, transport) or is_retriable(error)
