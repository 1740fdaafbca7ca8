"""The error tree, and the failure codes of single images.

CaptionbeamError
├── RequestError(ValueError)   an invalid request: message of one sentence, exit status 2
│   ├── SourceError            a source cannot be listed or read
│   │   ├── PromptColumnError  no source has a column that a prompt uses
│   │   └── SourceUnavailable  the source's server is temporarily unavailable: exit status 1, so schedulers retry
│   ├── StoreError             missing store or snapshot, or one written by a newer version
│   ├── FingerprintError       rows, weights or bundle come from a different model or setting
│   └── BundleError            a folder is not a complete bundle
├── SystemicError              credentials, full disk, broken device: stops the job, exit status 1
├── TooManyFailures            more failed images than --max-failures allows: not published, exit status 1
├── HeldBack                   a publish gate rejected the snapshot: not published, exit status 1
├── OutOfMemory                a batch exceeds device memory: the caller halves it and continues
└── ImageError                 one image could not be processed: becomes one failure row
"""

from __future__ import annotations

TRANSIENT_CODES = frozenset({"timeout", "unavailable"})
PERMANENT_CODES = frozenset(
    {"not_found", "denied", "truncated", "unsupported", "too_large", "decode", "empty", "model"}
    | {"rejected", "refused", "no_answer", "cut_off", "invalid_json", "empty_prompt"}  # of prompts
)
FAILURE_CODES = TRANSIENT_CODES | PERMANENT_CODES


class CaptionbeamError(Exception):
    """Base class of all errors that this project raises deliberately."""

    exit_status = 1


class RequestError(CaptionbeamError, ValueError):
    """The request is invalid. The message names the value and states what was expected."""

    exit_status = 2


class SourceError(RequestError):
    """A source cannot be listed or read."""


class SourceUnavailable(SourceError):
    """A source's server does not respond, or responds with 429 or 5xx. The request itself is valid."""

    exit_status = 1


class PromptColumnError(SourceError):
    """A column that a prompt uses is missing. Its parts: what is missing, what else was expected, and a hint."""

    def __str__(self) -> str:
        return "".join(map(str, self.args))

    def of_record(self) -> PromptColumnError:
        """Returns the error where the prompt is one of a store's record."""
        said, _, hint = self.args
        return PromptColumnError(
            said, ", or another --prompt than that of the store's record, with --redo", hint
        )


class StoreError(RequestError):
    """The store or snapshot does not exist, or a newer version wrote it."""


class FingerprintError(RequestError):
    """Two parts that must match (rows and encoder, features and bundle) do not."""


class BundleError(RequestError):
    """A folder is not a complete bundle."""


class SystemicError(CaptionbeamError):
    """An error that is not specific to one image: the job stops and commits nothing."""


class TooManyFailures(CaptionbeamError):
    """More images failed than the limit allows. The snapshot is not published."""


class HeldBack(CaptionbeamError):
    """A publish gate found the snapshot implausible compared with its parent. It is not published."""


class OutOfMemory(CaptionbeamError):
    """A batch does not fit into the device's memory."""


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
    """Returns True for failures that may disappear on their own; the next run retries them."""
    return code in TRANSIENT_CODES


def expect(holds: bool, name: str, value: object, expected: str) -> None:
    """Raises RequestError with the option's name, ``value`` and what is ``expected``, unless ``holds``."""
    if not holds:
        raise RequestError(f"{flag(name)} is {value!r}; expected {expected}")


def flag(name: str) -> str:
    """Returns an option's command-line name, without the leading dashes."""
    return name.replace("_", "-")


def not_installed(package: str, extra: str) -> str:
    """Returns the message for a missing ``package`` that ``extra`` installs. captionbeam is in no package index."""
    return f"{package} is not installed; expected pip install '.[{extra}]' in a clone of captionbeam, on workers too"
