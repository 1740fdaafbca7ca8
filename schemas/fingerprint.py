"""Hashes that name things: what decides a row's value, and the content of a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import fsspec


def fingerprint(spec: Mapping[str, Any]) -> str:
    """32 hexadecimal digits: SHA-256 of the canonical JSON (sorted keys, no spaces) of ``spec``."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of ``data``, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_stream(stream: BinaryIO, block: int = 1 << 20) -> str:
    """The SHA-256 of what is left in ``stream``, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := stream.read(block):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_file(url: str) -> str:
    """The SHA-256 of the file at a path or fsspec URL, in hexadecimal."""
    with fsspec.open(url, "rb") as stream:
        return sha256_stream(stream)
