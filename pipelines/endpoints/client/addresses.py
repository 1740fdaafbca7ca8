"""An endpoint's address and key, and what of them may be shown."""

from __future__ import annotations

import os

import httpx

from captionbeam.schemas.errors import SystemicError

KEY = "OPENAI_API_KEY"


def shown(url: str) -> str:
    """Returns a URL without the user, password and query, which may be secret."""
    return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))


def address_of(url: str) -> httpx.URL:
    """Returns where requests to the API at ``url`` go."""
    base = httpx.URL(url)
    return base.copy_with(path=base.path.rstrip("/") + "/chat/completions")


def key_of_environment() -> str:
    """Returns the key in this process's environment; "" if there is none."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and (key.isprintable() or not key)):
        raise SystemicError(f"{KEY} has characters that no key has")
    return key


def secrets_of(url: str, key: str) -> list[str]:
    """Returns the parts of a URL that no message may have, and the key, the longest first."""
    parts = httpx.URL(url)
    secrets = {key, parts.password, parts.query.decode(), *parts.params.values()}
    return sorted((secret for secret in secrets if len(secret) > 3), key=len, reverse=True)
