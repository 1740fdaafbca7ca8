"""Splitting URIs, as data has them: no text raises here, whatever it is.

A URI is ``scheme://authority/path``; all else is a path. Only HTTP has queries and fragments: in a file's name or an
object's key, ``?``, ``#`` and ``%`` are characters like any other.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_WHOLE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)", re.DOTALL)
_HTTP = re.compile(
    r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL | re.IGNORECASE | re.ASCII
)


class UrlParts(NamedTuple):
    """``authority`` is a host with its port and user, or a bucket. ``scheme`` is in small letters, '' of a path."""

    scheme: str
    authority: str
    path: str
    query: str = ""


def split_url(url: str) -> UrlParts:
    """The parts of ``url``, without HTTP's fragment."""
    found = _HTTP.fullmatch(url) or _WHOLE.fullmatch(url)
    if found is None:
        return UrlParts("", "", url)
    scheme, *rest = found.groups(default="")
    return UrlParts(scheme.lower(), *rest)
