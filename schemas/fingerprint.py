"""Hashes of specifications and file contents, and the differences between two specifications."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import fsspec


def fingerprint(spec: Mapping[str, Any]) -> str:
    """Returns 32 hexadecimal digits of the SHA-256 of ``spec`` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the differences of two specifications as (name, old, new), sorted by name.

    Nested names are joined with a dot (``a.b``); hashes are shortened.
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    return [
        (name, _shown(before.get(name)), _shown(after.get(name)))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], most: int = 3) -> str | None:
    """Describes the first ``most`` differences, such as ``output pooled, not grid``; None if both are equal."""
    found = changes(theirs, ours)
    said = [f"{name.replace('_', ' ')} {old}, not {new}" for name, old, new in found[:most]]
    return "; ".join(said) + (f"; {len(found) - most} more" if len(found) > most > 1 else "") or None


def _flat(spec: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in spec.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    text = "none" if value is None else str(value)
    is_hash = len(text) >= 32 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_hash else text


def sha256_bytes(data: bytes) -> str:
    """Returns the SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_stream(stream: BinaryIO, block: int = 1 << 20) -> str:
    """Returns the SHA-256 of the rest of ``stream`` in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := stream.read(block):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_file(url: str) -> str:
    """Returns the SHA-256 of the file at a path or fsspec URL in hexadecimal."""
    with fsspec.open(url, "rb") as stream:
        return sha256_stream(stream)
