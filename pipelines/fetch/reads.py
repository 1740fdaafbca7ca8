"""Reads bytes from any filesystem: many concurrent reads, each with a timeout and retries.

All remote reads run in one gather on fsspec's event loop, as coroutines if the filesystem supports them, else in
threads. Local files are read by a few threads.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from fsspec.asyn import AsyncFileSystem, get_loop, sync
from tenacity import AsyncRetrying, Retrying, retry_if_exception, stop_after_attempt

from captionbeam.pipelines.fetch import address_guard, http
from captionbeam.pipelines.fetch.byte_ranges import LISTING, ByteRange, FetchOptions
from captionbeam.pipelines.fetch.errors import image_error, is_worth_retrying, source_error
from captionbeam.pipelines.fetch.http import too_large
from captionbeam.pipelines.fetch.urls import filesystem, is_http, is_local, local_path
from captionbeam.schemas.errors import ImageError, RequestError, SourceError
from captionbeam.schemas.storage.retrying import single_attempt, wait

LOCAL_THREADS = 8  # for network disks; local ones need only two
_RANGE_PAST_END = 416
# What filesystems of other projects raise for a URI that they do not understand.
_NOT_UNDERSTOOD = (
    ValueError, TypeError, AttributeError, NotImplementedError, ImportError, IndexError,
    zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip


def read_ranges(ranges: Sequence[ByteRange], options: FetchOptions) -> list[bytes | ImageError]:
    """Returns the bytes of each range, or the error. A whole file above ``max_bytes`` is ``too_large``.

    Raises SystemicError (credentials, broken disk) and SourceError (a server without byte ranges).
    """
    found: list[bytes | ImageError] = sync(get_loop(), _gather, list(ranges), options)
    return found


def with_retries(options: FetchOptions) -> Retrying:
    """Returns a caller that retries a function with increasing waits while its errors are transient."""
    return Retrying(**_retrying(options))


def check_ranges(url: str) -> None:
    """Raises SourceError if the HTTP server of ``url`` ignores byte ranges."""
    found = read_ranges([ByteRange(url, 0, 1)], replace(LISTING, trusted=address_guard.origins([url])))[0]
    if isinstance(found, ImageError):
        raise source_error(url, found.code, found.message)


async def _gather(ranges: list[ByteRange], options: FetchOptions) -> list[Any]:
    local = [i for i, part in enumerate(ranges) if is_local(part.url)]
    remote = [i for i, part in enumerate(ranges) if not is_local(part.url)]
    gate = asyncio.Semaphore(options.connections)
    groups = [local[i::LOCAL_THREADS] for i in range(min(LOCAL_THREADS, len(local)))]

    def read_group(group: list[int]) -> list[bytes | ImageError]:
        return [_read_file(ranges[i], options.max_bytes) for i in group]

    jobs: list[Any] = [asyncio.to_thread(read_group, group) for group in groups]
    jobs += [_read_remote(ranges[i], gate, options) for i in remote]
    done: list[Any] = await asyncio.gather(*jobs, return_exceptions=True)  # an error after all have ended
    for result in done:
        if isinstance(result, BaseException) and not isinstance(result, ImageError):
            raise result
    found = [*chain(*done[: len(groups)]), *done[len(groups) :]]
    return [result for _, result in sorted(zip([*chain(*groups), *remote], found, strict=True))]


def _read_file(part: ByteRange, max_bytes: int) -> bytes | ImageError:
    try:
        # Non-blocking, as opening a pipe would wait for a writer.
        descriptor = os.open(local_path(part.url.removeprefix("file://")), os.O_RDONLY | os.O_NONBLOCK)
    except OSError as err:
        return image_error(err, part.url)
    except ValueError as err:  # a NUL or a lone surrogate in the name
        return ImageError("not_found", "fetch", f"{part.url!r}: {err}")
    try:
        return _read_descriptor(descriptor, part, max_bytes)
    except OSError as err:
        return image_error(err, part.url)
    finally:
        os.close(descriptor)


def _read_descriptor(descriptor: int, part: ByteRange, max_bytes: int) -> bytes | ImageError:
    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{part.url} is a folder")
    if not stat.S_ISREG(found.st_mode):
        return ImageError("unsupported", "fetch", f"{part.url}: is no regular file")
    if part.end is None and found.st_size > max_bytes:
        return too_large(part.url, max_bytes)
    end = found.st_size if part.end is None else min(part.end, found.st_size)
    return _pread(descriptor, part.start, end - part.start)


def _pread(descriptor: int, start: int, count: int) -> bytes:
    data = os.pread(descriptor, max(count, 0), start)
    while len(data) < count and (more := os.pread(descriptor, count - len(data), start + len(data))):
        data += more
    return data


async def _read_remote(part: ByteRange, gate: asyncio.Semaphore, options: FetchOptions) -> bytes | ImageError:
    try:
        data: bytes = await AsyncRetrying(**_retrying(options))(_read_once, part, gate, options)
    except SourceError:
        raise
    except (RequestError, UnicodeError) as err:  # UnicodeError: an invalid host or key name
        return ImageError("unsupported", "fetch", f"{part.url}: {err}")
    except Exception as err:  # noqa: BLE001 (image_error raises errors again that do not concern input)
        return image_error(err, part.url, "unsupported" if _is_not_understood(err, part) else None)
    if part.end is None and len(data) > options.max_bytes:
        return too_large(part.url, options.max_bytes)
    return data


def _is_not_understood(error: Exception, part: ByteRange) -> bool:
    """Returns whether ``error`` is about the URI of one image, not about a container or this project's code."""
    return part.end is None and not is_http(part.url) and isinstance(error, _NOT_UNDERSTOOD)


def _retrying(options: FetchOptions) -> dict[str, Any]:
    return {
        "stop": stop_after_attempt(options.attempts),
        "wait": wait,
        "retry": retry_if_exception(is_worth_retrying),
        "reraise": True,
    }


async def _read_once(part: ByteRange, gate: asyncio.Semaphore, options: FetchOptions) -> bytes:
    # One byte above the limit distinguishes a file at the limit from a longer one.
    end = options.max_bytes + 1 if part.end is None else part.end
    async with gate, asyncio.timeout(options.timeout):  # waiting at the gate does not count
        if is_http(part.url):
            return await http.read(part, end, options)
        fs, path = filesystem(part.url)
        try:
            with single_attempt():  # retries are counted here
                data: bytes = (
                    await fs._cat_file(path, start=part.start, end=end)
                    if isinstance(fs, AsyncFileSystem)
                    else await asyncio.to_thread(fs.cat_file, path, start=part.start, end=end)
                )
                return data
        except Exception as err:
            if str(getattr(err, "code", "")) == str(_RANGE_PAST_END):  # gcsfs, for an empty object
                return b""
            raise
