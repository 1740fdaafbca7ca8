"""Versions of what lies on disk: each format has one, and refuses what a newer captionbeam wrote."""

from __future__ import annotations

from captionbeam.schemas.errors import RequestError, StoreError


def check_version(written: object, newest: int, what: str, error: type[RequestError] = StoreError) -> None:
    """Raises ``error`` unless ``written``, the version of ``what``, is one from 1 to ``newest``."""
    if type(written) is not int or written < 1:
        raise error(f"{what} has version {written!r}; expected a number from 1 to {newest}")
    if written > newest:
        raise error(f"{what} has version {written}; this captionbeam reads up to {newest}: upgrade it")
