"""gcsfs with this project's retries. fsspec loads it for ``gs://`` instead of gcsfs's own class."""

from __future__ import annotations

import json
import re
from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import google.auth.exceptions
from gcsfs import GCSFileSystem
from gcsfs.retry import HttpError, is_retriable

from captionbeam.schemas.storage import retrying

_LAST_PART = re.compile(r"/(\d+)$")  # of a Content-Range: the total, known in an upload's last part only
_UPLOAD = re.compile(r"/b/([^/]+)/o\?.*upload_id=")
_ask = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)  # without gcsfs's own retries
_sends: ContextVar[int] = ContextVar("sends", default=0)
_told: ContextVar[str | None] = ContextVar("told", default=None)


class RetryingGCSFileSystem(GCSFileSystem):
    """Retries in ``_request``, which makes all requests: reads, listings, and parts of uploads."""

    session_kwargs: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=retrying.CONNECT_TIMEOUT, sock_read=retrying.READ_TIMEOUT
        )
        self.session_kwargs = {"timeout": timeout, "middlewares": (_hear,), **self.session_kwargs}

    async def _request(self, method: str, *args: Any, **kwargs: Any) -> Any:
        async def ask(attempt: int) -> Any:
            _told.set(None)
            _sends.set(0)
            try:
                return await _ask(self, method, *args, **kwargs)
            except FileNotFoundError:  # the response to an earlier try may have been lost
                done = (
                    await self._done_before(method, args[0], kwargs.get("headers"))
                    if max(attempt, _sends.get()) > 1
                    else None
                )
                if done is None:
                    raise
                return done
            except Exception as err:
                retrying.note_retry_after(err, _told.get())
                raise

        return await retrying.retry_async(ask, _passes)

    async def _done_before(self, method: str, path: str, headers: Any) -> Any:
        """Returns the lost response of an earlier try that succeeded; None if it did not."""
        if method == "DELETE":
            return 204, {}, None, b""
        total = _LAST_PART.search((headers or {}).get("Content-Range", ""))
        place = _UPLOAD.search(path)
        if not total or not place:
            return None
        name = parse_qs(urlsplit(path).query).get("name", [""])[0]
        found = await _ask(self, "GET", "b/{}/o/{}", place[1], name)
        return found if json.loads(found[3]).get("size") == total[1] else None


async def _hear(request: Any, handler: Any) -> Any:
    _sends.set(_sends.get() + 1)  # aiohttp resends a request whose connection was closed
    response = await handler(request)
    _told.set(response.headers.get("Retry-After"))
    return response


def _passes(error: BaseException) -> bool:
    if (
        isinstance(error, HttpError)
        and str(error.code).isdigit()
        and retrying.is_transient_status(int(error.code))
    ):
        return True
    transport = (TimeoutError, ConnectionError, google.auth.exceptions.TransportError)
    return isinstance(error, transport) or is_retriable(error)
