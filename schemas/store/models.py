"""A store's ``models/``: the files that workers load, each checked against its hash before it gets its name there."""

from __future__ import annotations

from captionbeam.schemas.fingerprint import sha256_stream
from captionbeam.schemas.storage import files
from captionbeam.schemas.storage.object_stores import refusals


def is_whole(url: str, sha256: str) -> bool:
    """Whether there is a file at ``url`` whose SHA-256, in hexadecimal, is ``sha256``. It is read for that."""
    fs, path = files.split(url)
    try:
        with refusals(url), fs.open(path, "rb") as stream:
            return sha256_stream(stream) == sha256
    except FileNotFoundError:
        return False


def keep_file(source: str, target: str, sha256: str) -> None:
    """Copy ``source`` to ``target``, unless ``target`` has the SHA-256 ``sha256``; another file there is replaced.

    Raises FingerprintError where ``source`` has another hash, FileNotFoundError.
    """
    if not is_whole(target, sha256):
        files.copy_file(source, target, sha256)


def keep_bytes(data: bytes, target: str, sha256: str) -> None:
    """The same for ``data``, which has the SHA-256 ``sha256``."""
    if not is_whole(target, sha256):
        files.write_atomic(target, data)
