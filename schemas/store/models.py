"""A store's ``models/`` folder: files that workers load, each verified against the content hash in its name."""

from __future__ import annotations

from captionbeam.schemas.fingerprint import sha256_stream
from captionbeam.schemas.storage import files
from captionbeam.schemas.storage.object_stores import as_os_errors


def has_sha256(url: str, sha256: str) -> bool:
    """Returns whether the file at ``url`` exists and has the SHA-256 ``sha256`` (hexadecimal). Reads all of it."""
    fs, path = files.split(url)
    try:
        with as_os_errors(url), fs.open(path, "rb") as stream:
            return sha256_stream(stream) == sha256
    except FileNotFoundError:
        return False


def keep_file(source: str, target: str, sha256: str) -> None:
    """Copies ``source`` to ``target``, unless ``target`` already has the SHA-256 ``sha256``. Replaces any other file.

    Raises FingerprintError if the hash of ``source`` differs, and FileNotFoundError.
    """
    if not has_sha256(target, sha256):
        files.copy_file(source, target, sha256)


def keep_bytes(data: bytes, target: str, sha256: str) -> None:
    """Writes ``data``, whose SHA-256 is ``sha256``, to ``target`` unless ``target`` already has that hash."""
    if not has_sha256(target, sha256):
        files.write_atomic(target, data)
