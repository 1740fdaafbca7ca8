"""The error tree, and the codes of failures of single images.

CaptionbeamError
├── RequestError(ValueError)   a wrong request: one sentence, exit status 2
│   ├── SourceError            a source that cannot be listed or read
│   │   └── SourceUnavailable  its server does not answer just now: exit status 1, so that schedules try again
│   ├── StoreError             no such store or snapshot, or one written by a newer version
│   ├── FingerprintError       rows, weights or a bundle made with something else
│   └── BundleError            a folder that is not a whole bundle
├── SystemicError              credentials, a full disk, a broken device: stops the job, exit status 1
├── TooManyFailures            more failed images than --max-failures allows: nothing is published, exit status 1
├── HeldBack                   a snapshot looks wrong beside its parent: it is not published, exit status 1
├── OutOfMemory                a batch did not fit the device: the caller halves it and goes on
└── ImageError                 one image could not be processed: becomes one failure row
"""

from __future__ import annotations

TRANSIENT_CODES = frozenset({"timeout", "unavailable"})
PERMANENT_CODES = frozenset(
    {"not_found", "denied", "truncated", "unsupported", "too_large", "decode", "empty", "model"}
)
FAILURE_CODES = TRANSIENT_CODES | PERMANENT_CODES


class CaptionbeamError(Exception):
    """Base of all errors that this project raises on purpose."""

    exit_status = 1


class RequestError(CaptionbeamError, ValueError):
    """The request is wrong. The message names the value and says what was expected."""

    exit_status = 2


class SourceError(RequestError):
    """A source cannot be listed or read."""


class SourceUnavailable(SourceError):
    """A source's server does not answer, or answers 429 or 5xx: nothing is wrong with the request."""

    exit_status = 1


class StoreError(RequestError):
    """There is no such store or snapshot, or a newer version wrote it."""


class FingerprintError(RequestError):
    """Two things that have to agree (rows and encoder, features and bundle) do not."""


class BundleError(RequestError):
    """A folder is not a whole bundle."""


class SystemicError(CaptionbeamError):
    """Not one image's fault: the job stops and commits nothing."""


class TooManyFailures(CaptionbeamError):
    """More images failed than the caller allows; the snapshot is not published."""


class HeldBack(CaptionbeamError):
    """A publish gate: the snapshot looks wrong beside its parent, and is not published."""


class OutOfMemory(CaptionbeamError):
    """A batch did not fit the device's memory."""


class ImageError(CaptionbeamError):
    """One image could not be processed.

    ``code`` is one of FAILURE_CODES, ``stage`` is ``fetch``, ``decode`` or ``model``.
    """

    def __init__(self, code: str, stage: str, message: str) -> None:
        if code not in FAILURE_CODES:
            raise ValueError(f"unknown failure code {code!r}; expected one of {sorted(FAILURE_CODES)}")
        super().__init__(code, stage, message)
        self.code, self.stage, self.message = code, stage, message

    def __str__(self) -> str:
        return f"{self.stage}: {self.code}: {self.message}"


def is_transient(code: str) -> bool:
    """True for failures that may go away by themselves, so that the next run does them again."""
    return code in TRANSIENT_CODES


def expect(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise RequestError unless it ``holds``: an option's ``value`` is not what is ``expected``."""
    if not holds:
        raise RequestError(f"{flag(name)} is {value!r}; expected {expected}")


def flag(name: str) -> str:
    """An option as the command line has it, without its dashes."""
    return name.replace("_", "-")


def not_installed(package: str, extra: str) -> str:
    """The sentence for a ``package`` that only ``extra`` installs. captionbeam itself is in no package index."""
    return f"{package} is not installed; expected pip install '.[{extra}]' in a clone of captionbeam, on workers too"
