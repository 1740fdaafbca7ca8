"""Object stores: create-if-absent by their own precondition, and their refusals in the words of a disk's.

gcsfs, s3fs and what lies below them raise errors of many families. They are named here by module and class and
never imported, so that who reads a local disk needs none of them.
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

MARK = "captionbeam-writer"  # S3 keeps names of metadata in lower case, without underscores
CONFLICTS, LONGEST_WAIT = 8, 2.0  # tries, and seconds between two of them
_LIBRARIES = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "s3fs", "urllib3")
_EXISTS, _CONFLICT = 412, 409
_AWS_CODES = {"PreconditionFailed": _EXISTS, "ConditionalRequestConflict": _CONFLICT}


def create(fs: AbstractFileSystem, path: str, data: bytes) -> bool:
    """Write ``data`` to ``path`` if nothing is there: ``ifGenerationMatch=0`` on gs, ``If-None-Match`` on s3.

    A request whose answer got lost is sent again, by the library or whatever lies between, and then meets its own
    object. So each carries a mark, and who is told "there is one already" looks whose it is.
    """
    mark = {MARK: uuid.uuid4().hex}
    options = {"Metadata": mark} if "s3" in fs.protocol else {"metadata": mark}
    for attempt in range(CONFLICTS):
        try:
            with refusals(path):
                fs.pipe_file(path, data, mode="create", **options)
            return True
        except FileExistsError:
            return _mark_of(fs, path) == mark[MARK]
        except OSError as err:  # somebody else's request was under way: who comes again learns how it ended
            if status_of(err) != _CONFLICT or attempt == CONFLICTS - 1:
                raise
            time.sleep(min(LONGEST_WAIT, 0.05 * 2**attempt))
    return False


def _mark_of(fs: AbstractFileSystem, path: str) -> str | None:
    try:
        with refusals(path):
            found: str | None = fs.getxattr(path, MARK)
    except (KeyError, FileNotFoundError):  # written by something else; gone again
        return None
    return found


def discard(fs: AbstractFileSystem, path: str, stream: BinaryIO) -> None:
    """Give up what was written to ``stream``, which is open on ``path``: nothing of it appears there."""
    if isinstance(stream, AbstractBufferedFile):
        with suppress(OSError), refusals(path):
            stream.discard()
        stream.closed = True  # else it would write what it holds once nobody refers to it any more
        return
    with suppress(OSError):  # a full disk refuses what is in the buffer once more
        stream.close()
    fs.rm_file(path)


@contextmanager
def refusals(path: str) -> Iterator[None]:
    """Raise what a storage library raises inside as the OSError that says the same, of ``path``."""
    try:
        yield
    except Exception as err:  # raised again, as it is or translated
        told = _as_os_error(err, path)
        if told is err:
            raise
        raise told from err


def _as_os_error(error: Exception, path: str) -> Exception:
    status = status_of(error)
    if status == _EXISTS:
        return FileExistsError(errno.EEXIST, "there is one already", path)
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if type(error) is OSError and said.startswith("Forbidden"):  # gcsfs says 403 so, without an errno
        return PermissionError(errno.EACCES, said, path)
    if isinstance(error, OSError) or not _is_of_storage(error):
        return error
    if status == 404:
        return FileNotFoundError(errno.ENOENT, said, path)
    if status in (401, 403) or "Credential" in type(error).__name__:
        return PermissionError(errno.EACCES, said, path)
    return OSError(errno.EIO, said, path)


def _is_of_storage(error: Exception) -> bool:
    bad_request = type(error) is ValueError and str(error).startswith("Bad Request")  # gcsfs's
    return bad_request or type(error).__module__.split(".")[0] in _LIBRARIES


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of a storage library, or what it was raised from, carries."""
    cause: BaseException | None = error
    while cause is not None:
        found = _own_status(cause)
        if found is not None:
            return found
        cause = cause.__cause__
    return None


def _own_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        code = response.get("Error", {}).get("Code", "")
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return _AWS_CODES.get(code, status)
    code = getattr(error, "code", None) if type(error).__name__ == "HttpError" else None
    return int(code) if code is not None and str(code).isdigit() else None
