"""Object stores: create-if-absent by the stores' own preconditions, and errors translated to OSError.

gcsfs, s3fs and their HTTP libraries raise many kinds of errors. These are identified by the names of module and
class, without imports, so that local stores do not need the libraries.
"""

from __future__ import annotations

import errno
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

MARK = "captionbeam-writer"  # S3 stores metadata names in lower case, without underscores
CONFLICTS, LONGEST_WAIT = 8, 2.0  # tries; maximum seconds between tries
_LIBRARIES = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "s3fs", "urllib3")
_EXISTS, _CONFLICT = 412, 409
_AWS_CODES = {"PreconditionFailed": _EXISTS, "ConditionalRequestConflict": _CONFLICT}


def create(fs: AbstractFileSystem, path: str, data: bytes) -> bool:
    """Writes ``data`` to ``path`` if no object exists: ``ifGenerationMatch=0`` on gs, ``If-None-Match`` on s3.

    A request whose response is lost may be sent again (by the library or a proxy) and then find its own object. Each
    object therefore has a random mark in its metadata, which is compared when the store reports an existing object.
    """
    mark = {MARK: uuid.uuid4().hex}
    options = {"Metadata": mark} if "s3" in fs.protocol else {"metadata": mark}
    for attempt in range(CONFLICTS):
        try:
            with as_os_errors(path):
                fs.pipe_file(path, data, mode="create", **options)
            return True
        except FileExistsError:
            return _mark_of(fs, path) == mark[MARK]
        except OSError as err:  # a concurrent request is in progress: retry to see its result
            if status_of(err) != _CONFLICT or attempt == CONFLICTS - 1:
                raise
            time.sleep(min(LONGEST_WAIT, 0.05 * 2**attempt))
    return False


def _mark_of(fs: AbstractFileSystem, path: str) -> str | None:
    try:
        with as_os_errors(path):
            found: str | None = fs.getxattr(path, MARK)
    except (KeyError, FileNotFoundError):  # written by another program, or removed since
        return None
    return found


def discard(fs: AbstractFileSystem, path: str, stream: BinaryIO) -> None:
    """Discards what was written to ``stream``, which is open on ``path``. No file appears there."""
    if isinstance(stream, AbstractBufferedFile):
        with suppress(OSError), as_os_errors(path):
            stream.discard()
        stream.closed = True  # else it would write its buffer when it is garbage collected
        return
    with suppress(OSError):  # a full disk fails again when the buffer is flushed
        stream.close()
    fs.rm_file(path)


@contextmanager
def as_os_errors(path: str) -> Iterator[None]:
    """Converts errors of storage libraries to the equivalent OSError for ``path``.

    An OSError without a file name, as of a full disk, gets ``path`` as its file name.
    """
    try:
        yield
    except Exception as err:  # raised again, named or converted
        told = _as_os_error(err, path)
        if isinstance(told, OSError) and told.errno is not None and told.filename is None:
            told.filename = path
        if told is err:
            raise
        raise told from err


def _as_os_error(error: Exception, path: str) -> Exception:
    status = status_of(error)
    if status == _EXISTS:
        return FileExistsError(errno.EEXIST, "there is one already", path)
    message = " ".join(str(error).split())[:300] or type(error).__name__
    # gcsfs reports 403 this way, without an errno
    if type(error) is OSError and message.startswith("Forbidden"):
        return PermissionError(errno.EACCES, message, path)
    if isinstance(error, OSError) or not _is_of_storage(error):
        return error
    if status == 404:
        return FileNotFoundError(errno.ENOENT, message, path)
    if status in (401, 403) or "Credential" in type(error).__name__:
        return PermissionError(errno.EACCES, message, path)
    return OSError(errno.EIO, message, path)


def _is_of_storage(error: Exception) -> bool:
    bad_request = type(error) is ValueError and str(error).startswith("Bad Request")  # from gcsfs
    return bad_request or type(error).__module__.split(".")[0] in _LIBRARIES


def status_of(error: BaseException) -> int | None:
    """Returns the HTTP status of a storage library's error or of its causes; None if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        found = _own_status(cause)
        if found is not None:
            return found
        cause = cause.__cause__
    return None


def _own_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        code = response.get("Error", {}).get("Code", "")
        status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return _AWS_CODES.get(code, status)
    code = getattr(error, "code", None) if type(error).__name__ == "HttpError" else None
    return int(code) if code is not None and str(code).isdigit() else None
