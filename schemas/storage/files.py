"""File operations for local disks and any fsspec URL.

``create`` (create-if-absent) makes commits first-come and snapshots atomic. It is atomic on ``file`` (a hard link),
``gs`` (``ifGenerationMatch=0``), ``s3`` (``If-None-Match``) and ``memory``. On other filesystems it is a check
followed by a write, which is safe with a single writer only.

Errors of a storage are raised as OSError. Listings never come from a cache.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import threading
import uuid
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, BinaryIO

import fsspec
from fsspec import AbstractFileSystem
from fsspec.core import has_magic, url_to_fs

from captionbeam.schemas.errors import FingerprintError, RequestError
from captionbeam.schemas.storage import object_stores
from captionbeam.schemas.storage import options as _options  # noqa: F401 (registers the classes that open gs and s3)
from captionbeam.schemas.storage.object_stores import as_os_errors

ATOMIC_CREATE = frozenset({"file", "local", "gs", "gcs", "s3", "s3a", "memory"})
HAVE_KEYS = frozenset({"gs", "gcs", "s3", "s3a", "http", "https"})
# As object_stores.as_os_errors and s3fs report 5xx
_PASSING = frozenset({errno.EIO, errno.EBUSY, errno.ETIMEDOUT})
_memory_lock = threading.Lock()


def split(url: str) -> tuple[AbstractFileSystem, str]:
    """Returns the filesystem and the path on it of a local path or fsspec URL. Raises RequestError."""
    # else gcsfs would use gRPC, which emulators lack, and wait a minute
    if "STORAGE_EMULATOR_HOST" in os.environ:
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    url = os.fspath(url)
    try:
        kind = scheme(url) or "file"
        # fsspec would read "::" as chained URLs
        if kind in ("file", "local") or (kind in HAVE_KEYS and "::" in url):
            fs = fsspec.filesystem(kind, use_listings_cache=False)
            return fs, fs._strip_protocol(url)
        fs, path = url_to_fs(url, use_listings_cache=False)
        return fs, path
    except ImportError as err:
        # The message names the package to install
        raise RequestError(f"{url!r} cannot be opened: {err}") from err
    except ValueError as err:
        raise RequestError(
            f"{url!r} cannot be opened: {err}; expected a path, or a URL of a known protocol"
        ) from err


def scheme(url: str) -> str:
    """Returns the part before ``://``, or '' for a path, even one with a folder name that ends in a colon."""
    kind, mark, _ = url.partition("://")
    return kind if mark and "/" not in kind else ""


def protocol(url: str) -> str:
    """Returns the first protocol of the URL's filesystem: ``file``, ``gs``, ``s3``, ..."""
    name = split(url)[0].protocol
    return name if isinstance(name, str) else name[0]


def is_local(fs: AbstractFileSystem) -> bool:
    """Returns whether ``fs`` is the local disk."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def has_atomic_create(url: str) -> bool:
    """Returns whether several writers may share a store at ``url``. On s3 this depends on the server and is tested."""
    kind = protocol(url)
    return _creates_once(url) if kind in ("s3", "s3a") else kind in ATOMIC_CREATE


def _creates_once(url: str) -> bool:
    probe = join(url, f".{uuid.uuid4().hex[:12]}.tmp")
    try:
        return create(probe, b"") and not create(probe, b"")
    finally:
        fs, path = split(probe)
        with as_os_errors(probe):
            fs.rm_file(path)


def join(url: str, *parts: str) -> str:
    """Joins ``url`` and ``parts`` with single slashes."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(url: str | os.PathLike[str]) -> str:
    """Returns ``url`` in a form that is valid on every worker: local paths absolute, no slash at the end."""
    url = os.fspath(url)
    if scheme(url):
        return url.rstrip("/")
    return os.path.abspath(os.path.expanduser(url))


def exists(url: str) -> bool:
    """Returns whether a file or folder exists at ``url``, without using a cached listing."""
    fs, path = split(url)
    with as_os_errors(url):
        return bool(fs.exists(path))


def read_bytes(url: str) -> bytes:
    """Returns the whole file. Raises FileNotFoundError."""
    fs, path = split(url)
    with as_os_errors(url):
        data: bytes = fs.cat_file(path)
    return data


def read_json(url: str) -> Any:
    """Returns the parsed file. Raises FileNotFoundError, json.JSONDecodeError."""
    try:
        return json.loads(read_bytes(url))
    except (UnicodeDecodeError, RecursionError) as err:
        raise json.JSONDecodeError(str(err), "", 0) from err


def names(url: str) -> list[str]:
    """Returns the sorted base names in the folder ``url``; empty if the folder does not exist.

    Leaves out names that start with a dot: temporary files of running or killed writers.
    """
    fs, path = split(url)
    try:
        with as_os_errors(url):
            listing = fs.ls(path, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    inside = (entry.rstrip("/") for entry in listing)
    own_marker = path.rstrip("/")
    found = (entry.rsplit("/", 1)[-1] for entry in inside if entry != own_marker)
    return sorted(name for name in found if not name.startswith("."))


def states(url: str) -> dict[str, str]:
    """Returns what the storage knows of each file in the folder ``url``, by base name, as ``names`` lists them.

    The value differs after a file is written again.
    """
    fs, path = split(url)
    try:
        with as_os_errors(url):
            listing = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    inside = {info["name"].rsplit("/", 1)[-1]: str(info) for info in listing if info["type"] == "file"}
    return {name: state for name, state in inside.items() if not name.startswith(".")}


def find(url: str) -> list[str]:
    """Returns the sorted paths of all files below the folder ``url``, relative to it; empty if it does not exist.

    Includes names that start with a dot.
    """
    fs, path = split(url)
    try:
        with as_os_errors(url):
            found = fs.find(path)
    except FileNotFoundError:
        return []
    root = path.rstrip("/") + "/"
    return sorted(name.removeprefix(root) for name in found if name.startswith(root) and name != root)


def create(url: str, data: bytes) -> bool:
    """Writes ``data`` to ``url`` as a whole if no file exists there. Returns False if one does."""
    fs, path = split(url)
    if is_local(fs):
        return _create_local(path, data)
    if "memory" in fs.protocol:
        with _memory_lock:
            return _create_checked(fs, path, data)
    if protocol(url) in ATOMIC_CREATE:
        return object_stores.create(fs, path, data)
    return _create_checked(fs, path, data)


def write_atomic(url: str, data: bytes) -> None:
    """Writes ``data`` to ``url`` and replaces what is there. Readers see the old or the new content, never a part."""
    fs, path = split(url)
    if not is_local(fs):
        with as_os_errors(url):
            fs.pipe_file(path, data)
        return
    os.replace(_write_beside(path, data), path)


def write_in_place(url: str, data: bytes) -> None:
    """Writes ``data`` directly to ``url``, which may be a pipe, a device or a file that is a mount point."""
    fs, path = split(url)
    with as_os_errors(url), fs.open(path, "wb") as stream:
        stream.write(data)


def check_writable(url: str) -> None:
    """Raises RequestError if nothing can be written below ``url``. Called before the work starts.

    Raises the storage's OSError if the storage does not respond, since the request itself may be valid.
    """
    fs, folder = split(url)
    folder = _existing(folder) if is_local(fs) else folder  # creating the folder would look like a result
    probe = f"{folder}/.{uuid.uuid4().hex[:12]}.tmp"
    try:
        with as_os_errors(url):
            fs.pipe_file(probe, b"")
            fs.rm_file(probe)
    except OSError as err:
        if err.errno in _PASSING:
            raise
        reason = err.strerror or err
        raise RequestError(
            f"{url!r} cannot be written to ({reason}); expected a writable folder or URL"
        ) from err


def check_local_writable(url: str) -> None:
    """Like ``check_writable``, but leaves no files and checks local folders only, for dry runs.

    Raises RequestError.
    """
    fs, folder = split(url)
    if not is_local(fs):
        return
    try:
        tempfile.TemporaryFile(
            dir=_existing(folder)
        ).close()  # has no name where the filesystem supports that
    except OSError as err:
        raise RequestError(
            f"{url!r} cannot be written to ({err.strerror or err}); expected a writable folder or URL"
        ) from err


def _existing(folder: str) -> str:
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return folder


def json_bytes(value: Any) -> bytes:
    """Returns ``value`` as indented JSON with sorted keys, the format of all JSON records on disk."""
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def copy_file(source: str, target: str, sha256: str | None = None) -> None:
    """Copies one file between any two filesystems. The target is replaced as a whole or left unchanged.

    Raises FingerprintError if the SHA-256 of the source is not ``sha256``.
    """
    digest = hashlib.sha256()
    with closing(_blocks(source)) as blocks, _writing(target) as writer:
        for block in blocks:
            digest.update(block)
            writer.write(block)
        if sha256 not in (None, digest.hexdigest()):
            raise FingerprintError(f"{source!r} has SHA-256 {digest.hexdigest()}; expected {sha256}")


def _blocks(url: str) -> Generator[bytes]:
    """Yields the content of ``url`` in parts."""
    fs, path = split(url)
    with as_os_errors(url), fs.open(path, "rb") as reader:
        while block := reader.read(1 << 22):
            yield block


@contextmanager
def _writing(url: str) -> Iterator[BinaryIO]:
    """Opens a stream to ``url``. The file appears when the block ends without an error.

    Errors of the block that name no file are taken for those of ``url``.
    """
    fs, path = split(url)
    local = is_local(fs)
    landing = _beside(path) if local else path
    with as_os_errors(url):
        if local:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        stream = fs.open(landing, "wb")
        try:
            yield stream
            stream.flush()
            if local:
                os.fsync(stream.fileno())
            stream.close()
        except BaseException:  # Ctrl-C too: removes the partial file and raises again
            object_stores.discard(fs, landing, stream)
            raise
        if local:
            os.replace(landing, path)


def remove(url: str) -> None:
    """Removes the file at ``url``, or the folder with its content. Raises FileNotFoundError.

    The path is taken literally; fsspec's ``rm`` would treat ``*``, ``?`` and ``[`` as a pattern.
    """
    fs, path = split(url)
    with as_os_errors(url):
        if not fs.isdir(path):
            fs.rm_file(path)
        elif is_local(fs) or not has_magic(path):
            fs.rm(path, recursive=True)
        else:
            inside = fs.find(path, withdirs=protocol(url) not in HAVE_KEYS, detail=True)
            for name, info in sorted(inside.items(), reverse=True):
                with suppress(FileNotFoundError):  # some stores have no folder objects
                    (fs.rmdir if info["type"] == "directory" else fs.rm_file)(name)


def _create_checked(fs: AbstractFileSystem, path: str, data: bytes) -> bool:
    if fs.exists(path):
        return False
    fs.pipe_file(path, data)
    return True


def _create_local(path: str, data: bytes) -> bool:
    temporary = _write_beside(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def _beside(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{uuid.uuid4().hex[:12]}.tmp")


def _write_beside(path: str, data: bytes) -> str:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = _beside(path)
    try:
        with as_os_errors(path), open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return temporary
