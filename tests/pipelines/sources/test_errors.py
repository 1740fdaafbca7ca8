"""What errors mean: made by the real libraries' own classes, so that a renamed one is noticed."""

import errno
import importlib

import aiohttp
import botocore.exceptions
import google.auth.exceptions
import pytest
from gcsfs.retry import ChecksumError, HttpError
from huggingface_hub.errors import HfHubHTTPError

from captionbeam.pipelines.fetch.errors import HttpStatusError, image_error, is_worth_retrying, reading
from captionbeam.schemas.errors import ImageError, RequestError, SourceError, SourceUnavailable, SystemicError

httpx = importlib.import_module(HfHubHTTPError.__mro__[1].__module__)  # its name depends on the version


def http_error(code: int) -> HttpError:
    return HttpError({"code": code, "message": "said the server"})


def aws_error(code: str, cause_of: type[OSError] = PermissionError) -> OSError:
    """As s3fs raises it: an OSError, caused by botocore's."""
    error = cause_of(code)
    error.__cause__ = botocore.exceptions.ClientError({"Error": {"Code": code}}, "GetObject")
    return error


CODES = [
    (FileNotFoundError("a"), "not_found", False),
    (OSError(errno.ENAMETOOLONG, "name too long"), "not_found", False),
    (PermissionError("a"), "denied", False),
    (OSError("Forbidden: https://storage.googleapis.com/..."), "denied", False),
    (http_error(403), "denied", False),
    (HttpStatusError(418, "I'm a teapot"), "denied", False),
    (TimeoutError(), "timeout", True),
    (botocore.exceptions.ReadTimeoutError(endpoint_url="u"), "timeout", True),
    (http_error(503), "unavailable", True),
    (ConnectionResetError("reset"), "unavailable", True),
    (OSError("something else"), "unavailable", True),
    (ChecksumError("md5"), "unavailable", True),
    (aiohttp.InvalidURL("http://["), "unsupported", False),
    (httpx.ReadTimeout("slow"), "timeout", True),
]


@pytest.mark.parametrize(("error", "code", "again"), CODES, ids=lambda value: repr(value)[:50])
def test_each_error_has_its_code_and_passing_ones_are_tried_again(error, code, again):
    failure = image_error(error, "gs://bucket/a.jpg")
    assert (failure.code, failure.stage) == (code, "fetch")
    assert failure.message.startswith("gs://bucket/a.jpg: ")
    assert is_worth_retrying(error) is again


SYSTEMIC = [
    google.auth.exceptions.RefreshError("expired"),
    botocore.exceptions.NoCredentialsError(),
    http_error(401),
    aws_error("ExpiredToken"),
    aws_error("SignatureDoesNotMatch", OSError),
    OSError(errno.ENOSPC, "No space left on device"),
]


@pytest.mark.parametrize("error", SYSTEMIC, ids=lambda error: repr(error)[:50])
def test_credentials_and_broken_machines_are_nobodys_image(error):
    assert not is_worth_retrying(error)
    with pytest.raises(SystemicError, match=r"^'gs://bucket/a.jpg' cannot be read: "):
        image_error(error, "gs://bucket/a.jpg")
    with pytest.raises(SystemicError), reading("gs://bucket"):
        raise error


@pytest.mark.parametrize("error", [ValueError("b"), KeyboardInterrupt(), RequestError("c")])
def test_what_is_not_about_input_stays_what_it_is(error):
    with pytest.raises(type(error)) as caught:
        image_error(error, "a.jpg")
    assert caught.value is error
    with pytest.raises(type(error)) as caught, reading("a.zip"):
        raise error
    assert caught.value is error


def test_an_unknown_error_gets_the_code_that_is_given_for_it():
    assert image_error(KeyError("a"), "hf://x", "unsupported").code == "unsupported"
    assert image_error(PermissionError("a"), "hf://x", "unsupported").code == "denied"
    error = ValueError("b")
    error.__cause__ = botocore.exceptions.NoCredentialsError()
    with pytest.raises(SystemicError):
        image_error(error, "hf://x", "unsupported")


def test_a_failure_that_is_one_already_is_kept():
    failure = ImageError("empty", "fetch", "a.jpg: has no bytes")
    assert image_error(failure, "other") is failure


@pytest.mark.parametrize(("error", "code", "again"), CODES[::5], ids=lambda value: repr(value)[:50])
def test_a_source_whose_trouble_may_pass_is_no_wrong_request(error, code, again):
    """A schedule tries again after exit status 1, and never after 2."""
    with pytest.raises(SourceError, match=rf"cannot be read \({code}\): ") as caught, reading("gs://bucket"):
        raise error
    assert (type(caught.value) is SourceUnavailable, caught.value.exit_status) == (again, 1 if again else 2)


def test_an_unreadable_source_is_one_sentence_with_its_cause():
    with pytest.raises(SourceError) as caught, reading("gs://bucket/x.zip"):
        raise PermissionError("not\nyours")
    assert str(caught.value) == "source 'gs://bucket/x.zip' cannot be read (denied): not yours"
    assert isinstance(caught.value.__cause__, PermissionError)
