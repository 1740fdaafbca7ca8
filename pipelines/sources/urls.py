"""Splitting URIs, as data has them: no text raises here, whatever it is.

A URI is ``scheme://authority/path``; all else is a path. Only HTTP has queries and fragments: in a file's name or an
object's key, ``?``, ``#`` and ``%`` are characters like any other.
"""

from __future__ import annotations

from typing import NamedTuple

from captionbeam.schemas.storage import files


class UrlParts(NamedTuple):
    """``authority`` is a host with its port and user, or a bucket. ``scheme`` is in small letters, '' of a path."""

    scheme: str
    authority: str
    path: str
    query: str = ""


def split_url(url: str) -> UrlParts:
    """The parts of ``url``, without HTTP's fragment."""
    scheme = files.scheme(url)
    if not scheme:
        return UrlParts("", "", url)
    rest, query = url[len(scheme) + len("://") :], ""
    if scheme.lower() in ("http", "https"):
        rest, _, query = rest.partition("#")[0].partition("?")
    authority, slash, path = rest.partition("/")
    return UrlParts(scheme.lower(), authority, slash + path, query)
