"""Splits URIs of any form. Never raises, whatever the text.

A URI is ``scheme://authority/path``; anything else is a path. Only HTTP has queries and fragments: in file names and
object keys, ``?``, ``#`` and ``%`` are ordinary characters.
"""

from __future__ import annotations

from typing import NamedTuple

from captionbeam.schemas.storage import files


class UrlParts(NamedTuple):
    """``authority`` is a host with port and user, or a bucket. ``scheme`` is in lower case, '' for a path."""

    scheme: str
    authority: str
    path: str
    query: str = ""


def split_url(url: str) -> UrlParts:
    """Splits ``url``, without HTTP's fragment."""
    scheme = files.scheme(url)
    if not scheme:
        return UrlParts("", "", url)
    rest, query = url[len(scheme) + len("://") :], ""
    if scheme.lower() in ("http", "https"):
        rest, _, query = rest.partition("#")[0].partition("?")
    authority, slash, path = rest.partition("/")
    return UrlParts(scheme.lower(), authority, slash + path, query)
