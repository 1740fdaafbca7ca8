"""Reads a range or a whole file by HTTP, up to a limit that does not depend on the response."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urljoin

import fsspec
from fsspec.config import conf

from captionbeam.pipelines.fetch import address_guard
from captionbeam.pipelines.fetch.byte_ranges import ByteRange, FetchOptions
from captionbeam.pipelines.fetch.errors import HttpStatusError
from captionbeam.pipelines.fetch.urls import filesystem, is_http, lower_scheme
from captionbeam.schemas.errors import ImageError, SourceError
from captionbeam.schemas.storage import retrying

REDIRECTS = 5
_CREDENTIALS = frozenset({"auth", "cookies", "headers", "params"})
_BLOCK = 1 << 18
_PARTIAL, _RANGE_PAST_END = 206, 416
_MOVED = frozenset({301, 302, 303, 307, 308})
# Some sites reject the default user agents of HTTP libraries.
_HEADERS = {"User-Agent": "captionbeam (batch image reader)", "Accept-Encoding": "identity"}


async def read(part: ByteRange, end: int, options: FetchOptions) -> bytes:
    """Returns the bytes of ``part``, up to ``end``. For a whole file, ``end`` is one byte above the size limit.

    Each redirect is checked like the first address. Raises ImageError, SourceError for a server without byte ranges,
    HttpStatusError, and aiohttp's errors.
    """
    url = part.url
    for _ in range(REDIRECTS + 1):
        found = await _hop(url, part, end, options)
        if isinstance(found, bytes):
            return found
        url = found
    raise ImageError("not_found", "fetch", f"{part.url}: is redirected more than {REDIRECTS} times")


async def _hop(url: str, part: ByteRange, end: int, options: FetchOptions) -> bytes | str:
    """Returns the bytes, or the URL of a redirect."""
    fs = _filesystem(url, options)
    session = await fs.set_session()
    headers = dict(_HEADERS)
    if part.end is not None:
        headers["Range"] = f"bytes={part.start}-{end - 1}"
    asked = {
        **fs.kwargs,
        "headers": {**headers, **(fs.kwargs.get("headers") or {})},
        "allow_redirects": False,
    }
    try:
        async with session.get(_address(fs, url), **asked) as response:
            if response.status in _MOVED:
                return _target(url, response)
            return await _answer(response, part, end)
    except address_guard.PrivateAddress as err:
        place = f"{part.url}: is redirected to {url}, whose" if url != part.url else f"{url}: its"
        said = f"{place} address {err} is not for everybody; {address_guard.HOW}"
        raise ImageError("denied", "fetch", said) from err


def _filesystem(url: str, options: FetchOptions) -> Any:
    origin = address_guard.origin(url)
    is_open = options.allow_private or origin in options.inside
    if is_open and origin in options.trusted:
        return filesystem(url)[0]
    guard = {} if is_open else {"get_client": address_guard.guarded_client}
    mine = {} if origin in options.trusted else _without_credentials()
    return fsspec.filesystem("http", **guard, **mine, use_listings_cache=False)


def _without_credentials() -> dict[str, Any]:
    """Returns overrides that remove the user's HTTP credentials, for servers that the user did not name."""
    given = {**conf.get("http", {}), **conf.get("https", {})}
    client = {
        name: value for name, value in given.get("client_kwargs", {}).items() if name not in _CREDENTIALS
    }
    hidden: dict[str, Any] = dict.fromkeys(_CREDENTIALS & given.keys())
    return hidden | ({"client_kwargs": client} if "client_kwargs" in given else {})


def _target(url: str, response: Any) -> str:
    target = lower_scheme(urljoin(url, response.headers.get("Location", "")))
    if not is_http(target):
        raise ImageError(
            "denied", "fetch", f"{url}: is redirected to {target!r}; expected an address of HTTP"
        )
    return target


async def _answer(response: Any, part: ByteRange, end: int) -> bytes:
    """Reads a response within limits. fsspec's own HTTP reads accept the whole body if a server ignores ranges."""
    if response.status == _RANGE_PAST_END:
        return b""
    if not response.ok:
        error = HttpStatusError(response.status, response.reason or "")
        retrying.note_retry_after(error, response.headers.get("Retry-After"))
        raise error
    if part.end is not None and response.status != _PARTIAL:
        raise SourceError(f"source {part.url!r}: its server sends no byte ranges; expected one that does")
    if response.status == _PARTIAL:
        _check_start(response, part)
    if part.end is None and (response.content_length or 0) >= end:
        raise too_large(part.url, end - 1)
    return await _body(response, end - part.start)


def _check_start(response: Any, part: ByteRange) -> None:
    """Raises unless the response's range starts at the requested byte."""
    said = response.headers.get("Content-Range", "")
    if not re.match(rf"bytes {part.start}-", said):
        sent = f"{part.url!r}: its server sends the range {said!r}; expected bytes from {part.start}"
        raise (
            SourceError(f"source {sent}")
            if part.end is not None
            else ImageError("unsupported", "fetch", sent)
        )


async def _body(response: Any, limit: int) -> bytes:
    blocks, length = [], 0
    async for block in response.content.iter_chunked(_BLOCK):
        blocks.append(block)
        length += len(block)
        if length >= limit:
            break
    return b"".join(blocks)[:limit]


def _address(fs: Any, url: str) -> Any:
    try:
        return fs.encode_url(url)
    except ValueError as err:
        raise ImageError("unsupported", "fetch", f"{url}: {err}") from err


def too_large(where: str, max_bytes: int) -> ImageError:
    """Returns the failure of an image that exceeds the size limit."""
    return ImageError("too_large", "fetch", f"{where}: has more than the {max_bytes} bytes that are read")
