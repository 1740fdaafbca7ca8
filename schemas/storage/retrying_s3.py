"""s3fs with this project's retries. fsspec loads it for ``s3://`` instead of s3fs's own class."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.core import S3_RETRYABLE_ERRORS

from captionbeam.schemas.storage import retrying
from captionbeam.schemas.storage.object_stores import status_of

# Transient errors that AWS reports with status 400.
_PASSING_CODES = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"}
)
_BODY_TRIES = 5  # tries to read an interrupted response body, as in s3fs


class RetryingS3FileSystem(S3FileSystem):
    """Retries in ``_call_s3``, which makes all requests. botocore's own retries are off."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = kwargs.pop("config_kwargs", None) or {}
        config = {
            "connect_timeout": retrying.CONNECT_TIMEOUT,
            "read_timeout": retrying.READ_TIMEOUT,
            "retries": {"mode": "standard", "total_max_attempts": 1},
            **given,
        }
        super().__init__(*args, config_kwargs=config, **kwargs)

    @property
    def retries(self) -> int:
        """The number of tries that s3fs makes itself: one if the caller counts them."""
        return 1 if retrying.is_single_attempt() else _BODY_TRIES

    async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
        async def ask(attempt: int) -> Any:
            try:
                return await super(RetryingS3FileSystem, self)._call_s3(method, *args, **kwargs)
            except FileNotFoundError:
                if method == "complete_multipart_upload" and attempt > 1:
                    return await self._completed(kwargs)
                raise
            except Exception as err:
                retrying.note_retry_after(err, _retry_after(err))
                raise

        return await retrying.retry_async(ask, _passes)

    call_s3 = sync_wrapper(_call_s3)  # s3fs's own is bound to its own _call_s3

    async def _completed(self, asked: dict[str, Any]) -> Any:
        """Returns the upload that an earlier try completed, if any. Raises FileNotFoundError if there is none."""
        found = await super()._call_s3("head_object", Bucket=asked["Bucket"], Key=asked["Key"])
        parts = len(asked["MultipartUpload"]["Parts"])
        if not found["ETag"].strip('"').endswith(f"-{parts}"):
            raise FileNotFoundError(f"the upload to {asked['Bucket']}/{asked['Key']} is not there any more")
        return found


def _passes(error: BaseException) -> bool:
    cause = error if isinstance(error, ClientError) else error.__cause__
    if isinstance(cause, ClientError) and cause.response.get("Error", {}).get("Code") in _PASSING_CODES:
        return True
    if retrying.is_transient_status(status_of(error)):
        return True
    connection = (TimeoutError, ConnectionError, BotoConnectionError)
    return isinstance(error, (*S3_RETRYABLE_ERRORS, *connection))


def _retry_after(error: BaseException) -> str | None:
    cause = error if isinstance(error, ClientError) else error.__cause__
    if not isinstance(cause, ClientError):
        return None
    header: str | None = cause.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after")
    return header
