"""Classifies input errors: failure of one image, unreadable source, or end of the job.

Errors of storage libraries are identified by class name, without imports, so workers need only the libraries that
they use.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from captionbeam.schemas.errors import (
    CaptionbeamError,
    ImageError,
    SourceError,
    SourceUnavailable,
    SystemicError,
    is_transient,
)
from captionbeam.schemas.storage.object_stores import status_of
from captionbeam.schemas.storage.retrying import is_transient_status

# The first class of the error's MRO in this table decides. An interrupted response is a network error and
# transient; a short file is "truncated", which is permanent.
_CODES = {
    "builtins.FileNotFoundError": "not_found",
    "builtins.IsADirectoryError": "not_found",
    "builtins.NotADirectoryError": "not_found",
    "builtins.PermissionError": "denied",
    "builtins.TimeoutError": "timeout",
    "builtins.ConnectionError": "unavailable",
    "aiohttp.client_exceptions.ServerTimeoutError": "timeout",
    "aiohttp.client_exceptions.ClientPayloadError": "unavailable",
    "aiohttp.client_exceptions.InvalidURL": "unsupported",
    "aiohttp.client_exceptions.TooManyRedirects": "not_found",
    "aiohttp.client_exceptions.ClientError": "unavailable",
    # A URI without a key or with an invalid bucket
    "botocore.exceptions.ParamValidationError": "unsupported",
    "requests.exceptions.Timeout": "timeout",
    "requests.exceptions.RequestException": "unavailable",
    "http.client.IncompleteRead": "unavailable",
    "httpx.TimeoutException": "timeout",
    "httpx.TransportError": "unavailable",
    "httpx2.TimeoutException": "timeout",  # of newer huggingface_hub
    "httpx2.TransportError": "unavailable",
    "botocore.exceptions.ReadTimeoutError": "timeout",
    "botocore.exceptions.ConnectTimeoutError": "timeout",
    "botocore.exceptions.IncompleteReadError": "unavailable",
    "botocore.exceptions.ConnectionError": "unavailable",
    "botocore.exceptions.HTTPClientError": "unavailable",
    "google.auth.exceptions.TransportError": "unavailable",
    "gcsfs.retry.ChecksumError": "unavailable",
}
_CREDENTIALS = {
    "google.auth.exceptions.DefaultCredentialsError",
    "google.auth.exceptions.RefreshError",
    "botocore.exceptions.NoCredentialsError",
    "botocore.exceptions.PartialCredentialsError",
    "botocore.exceptions.CredentialRetrievalError",
    "botocore.exceptions.TokenRetrievalError",
    "botocore.exceptions.UnauthorizedSSOTokenError",
}
_CREDENTIAL_CODES = {
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "RequestExpired",
    "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip
_BROKEN_MACHINE = {
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENODEV, errno.ESTALE,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM,
}  # fmt: skip
_IMPOSSIBLE_NAME = {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO}


class HttpStatusError(OSError):
    """An unsuccessful HTTP response."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"HTTP {status} {reason}".rstrip())
        self.status = status


def image_error(error: BaseException, where: str, unknown: str | None = None) -> ImageError:
    """Returns ``error`` as the failure of one image read from ``where``.

    Raises SystemicError if the image is not the cause. An error that is not known as one of input gets the code
    ``unknown``; it is raised itself if there is none.
    """
    if isinstance(error, ImageError):
        return error
    if isinstance(error, CaptionbeamError) or not isinstance(error, Exception):
        raise error
    if _systemic(error):
        raise SystemicError(f"{where!r} cannot be read: {_sentence(error)}") from error
    code = _known_code(error) or unknown
    if code is None:
        raise error
    return ImageError(code, "fetch", f"{where}: {_sentence(error)}")


def source_error(source: str, code: str, message: str) -> SourceError:
    """Returns a SourceError for an unreadable ``source``; SourceUnavailable if the cause is transient."""
    kind = SourceUnavailable if is_transient(code) else SourceError
    return kind(f"source {source!r} cannot be read ({code}): {message}")


def raise_if_gone(error: ImageError, container: str) -> None:
    """Raises SourceError if ``error`` means that the whole container is missing or denied."""
    if error.code in ("not_found", "denied"):
        raise SourceError(f"source {container!r} cannot be read ({error.code}): {error.message}") from error


def is_worth_retrying(error: BaseException) -> bool:
    """Returns whether the same read may succeed later: timeouts, 5xx, 429, interrupted connections."""
    if isinstance(error, CaptionbeamError) or not isinstance(error, Exception) or _systemic(error):
        return False
    code = _known_code(error)
    return code is not None and is_transient(code)


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Converts errors of listing or opening ``source`` to SourceError or SystemicError."""
    try:
        yield
    except Exception as err:  # raised again unless it is an input error
        if isinstance(err, CaptionbeamError):
            raise
        if _systemic(err):
            raise SystemicError(f"{source!r} cannot be read: {_sentence(err)}") from err
        code = _known_code(err)
        if code is None:
            raise
        raise source_error(source, code, _sentence(err)) from err


def _systemic(error: BaseException) -> bool:
    if (
        isinstance(error, OSError)
        and error.errno in _BROKEN_MACHINE
        and not is_transient_status(status_of(error))
    ):
        return True
    return any(
        _CREDENTIALS.intersection(_mro_names(cause))
        or _aws_code(cause) in _CREDENTIAL_CODES
        or (type(cause).__name__ == "HttpError" and str(getattr(cause, "code", "")) == "401")
        for cause in _causes(error)
    )


def _known_code(error: BaseException) -> str | None:
    status = _status(error)
    if status is not None:
        return _code_of_status(status)
    # fsspec raises this for any HTTP error
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return _known_code(error.__cause__) or "not_found"
    for name in _mro_names(error):
        if name in _CODES:
            return _CODES[name]
    if not isinstance(error, OSError):
        return None
    if str(error).startswith("Forbidden"):  # gcsfs reports 403 this way, without an errno
        return "denied"
    return "not_found" if error.errno in _IMPOSSIBLE_NAME else "unavailable"


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status of this project's, aiohttp's (``status``) or gcsfs's (``code``) error."""
    name, status = type(error).__name__, None
    if isinstance(error, HttpStatusError) or (name == "ClientResponseError" and not _is_no_answer(error)):
        status = getattr(error, "status", None)
    elif name == "HttpError":
        status = getattr(error, "code", None)
    elif is_transient_status(status_of(error)):  # s3fs reports 429 and 5xx as disk errors
        status = status_of(error)
    return int(status) if status is not None and str(status).isdigit() else None


def _is_no_answer(error: BaseException) -> bool:
    """Returns whether aiohttp could not parse a response. It reports 400 for that, but the error may be transient."""
    return "aiohttp.http_exceptions.HttpProcessingError" in _mro_names(error.__cause__ or error)


def _code_of_status(status: int) -> str:
    if status in (404, 410):
        return "not_found"
    if status == 408:
        return "timeout"
    return "unavailable" if status == 429 or status >= 500 else "denied"


def _aws_code(error: BaseException) -> str:
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _mro_names(error: BaseException) -> list[str]:
    return [f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__]


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:300]
