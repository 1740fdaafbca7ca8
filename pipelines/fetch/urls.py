"""URLs and paths: their parts, and the filesystems that open them."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from fsspec import AbstractFileSystem

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

_INVALID_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")


class UrlParts(NamedTuple):
    """``authority`` is a host with port and user, or a bucket. ``scheme`` is in lower case, '' for a path."""

    scheme: str
    authority: str
    path: str
    query: str = ""


def split_url(url: str) -> UrlParts:
    """Splits ``url``, without HTTP's fragment. Never raises, whatever the text.

    A URI is ``scheme://authority/path``; anything else is a path. Only HTTP has queries and fragments: in file names
    and object keys, ``?``, ``#`` and ``%`` are ordinary characters.
    """
    scheme = files.scheme(url)
    if not scheme:
        return UrlParts("", "", url)
    rest, query = url[len(scheme) + len("://") :], ""
    if scheme.lower() in ("http", "https"):
        rest, _, query = rest.partition("#")[0].partition("?")
    authority, slash, path = rest.partition("/")
    return UrlParts(scheme.lower(), authority, slash + path, query)


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Returns filesystem and path of ``url``. Raises RequestError if its protocol is not installed."""
    try:
        return files.split(url)
    except (TypeError, AttributeError) as err:  # some filesystems require options
        raise RequestError(f"{url!r} cannot be opened: {err}") from err


def lower_scheme(url: str) -> str:
    """Returns ``url`` with its protocol in lower case: ``HTTP://host/A.jpg`` becomes ``http://host/A.jpg``."""
    scheme = files.scheme(url)
    return scheme.lower() + url[len(scheme) :]


def is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def printable(name: str) -> str:
    r"""Returns ``name`` with each non-UTF-8 byte (a surrogate in Python's file names) written as ``\xe9``."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate from JSON
        return name.encode("utf-8", "backslashreplace").decode()


def raw_name(name: str) -> str:
    r"""Reverses ``printable`` for names that contain escapes such as ``\xe9``."""
    parts = re.split(_INVALID_BYTE, name)
    encoded = (bytes([int(part, 16)]) if i % 2 else part.encode() for i, part in enumerate(parts))
    return b"".join(encoded).decode("utf-8", "surrogateescape")


def local_path(path: str) -> str:
    """Returns the local file of ``path``, with non-UTF-8 bytes restored (see ``printable``)."""
    return path if "\\x" not in path or os.path.lexists(path) else raw_name(path)


def is_local(url: str) -> bool:
    """Returns whether ``url`` is a local path."""
    return files.scheme(url) in ("", "file")
