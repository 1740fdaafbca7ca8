"""Filesystem options by protocol, the same in every process of a job.

fsspec keeps options for each protocol (``fsspec.config``) and applies them to every filesystem that it opens. A job's
options are merged over those from the environment and ``~/.config/fsspec``. Workers have neither the launcher's
environment nor its files, so the options are sent with the pipeline.
"""

from __future__ import annotations

import copy
import json
import os
import re
import threading
from collections.abc import Mapping
from typing import Any

import fsspec
from fsspec.config import conf

from captionbeam.schemas.errors import not_installed

Options = dict[str, dict[str, Any]]

# Options that a run's record may show. All others may be secrets.
_HARMLESS = frozenset({
    "anon", "requester_pays", "project", "endpoint_url", "profile", "use_ssl", "requests_timeout", "default_location",
})  # fmt: skip
_USER = re.compile(r"^([^/]*//)?[^/?#]*@")
_NO_SECRET_TOKENS = frozenset({"anon", "cloud", "google_default", "cache", "browser"})
_RETRYING = {
    "gs": "captionbeam.schemas.storage.retrying_gs.RetryingGCSFileSystem",
    "s3": "captionbeam.schemas.storage.retrying_s3.RetryingS3FileSystem",
}
_SIZED = "captionbeam.schemas.storage.sized_http.SizedHTTPFileSystem"
_ALIASES = {"gcs": "gs", "s3a": "s3", "https": "http"}
_NEEDS = {"s3": not_installed("s3fs", "s3")}

_found = copy.deepcopy(conf)  # before any job changes it
_used: Options = {}
_lock = threading.Lock()


def current() -> Options:
    """Returns the job's options, in the form that is sent to workers."""
    return _used


def use(options: Options) -> None:
    """Applies ``options`` to all filesystems opened later in this process. Replaces another job's options."""
    global _used
    with _lock:
        if options == _used:
            return
        for protocol in {*_used, *options}:
            names = [protocol, *(alias for alias, name in _ALIASES.items() if name == protocol)]
            for name in names:
                merged = {**_found.get(name, {}), **options.get(protocol, {})}
                conf.pop(name, None)
                conf.update({name: merged} if merged else {})
        _used = copy.deepcopy(options)


def as_environment() -> dict[str, str]:
    """Returns environment variables for a child process. fsspec reads the options of each protocol from them."""
    ours = {*_used, *(alias for alias, name in _ALIASES.items() if name in _used)}
    starts = tuple(f"FSSPEC_{name.upper()}_" for name in ours)
    kept = {name: value for name, value in os.environ.items() if not f"{name}_".startswith(starts)}
    return kept | {f"FSSPEC_{name.upper()}": json.dumps(conf[name]) for name in ours & conf.keys()}


def for_record(options: Options) -> Options:
    """Returns ``options`` without possible secrets."""
    return {
        protocol: {name: _for_record(name, value) for name, value in values.items()}
        for protocol, values in options.items()
    }


def _for_record(name: str, value: Any) -> Any:
    known_token = name == "token" and str(value) in _NO_SECRET_TOKENS
    if name not in _HARMLESS and not isinstance(value, bool) and not known_token:
        return "(not kept)"
    return _USER.sub(r"\1", value) if isinstance(value, str) else value  # without user name and password


def plain(options: Mapping[str, Mapping[str, Any]]) -> Options:
    """Returns ``options`` with aliases of protocols merged under one name."""
    named: Options = {}
    for protocol, values in options.items():
        named.setdefault(name_of(protocol), {}).update(values)
    return named


def name_of(protocol: str) -> str:
    """Returns the canonical name of a protocol."""
    return _ALIASES.get(protocol, protocol)


def has_retries(kind: type) -> bool:
    """Returns whether ``kind`` is one of this project's filesystem classes for gs or s3."""
    return f"{kind.__module__}.{kind.__qualname__}" in _RETRYING.values()


def use_own_classes() -> None:
    """Registers the retrying classes for gs and s3 and the size-detecting class for HTTP with fsspec."""
    for name in ("http", "https"):
        fsspec.register_implementation(name, _SIZED, clobber=True)
    for protocol, kind in _RETRYING.items():
        for name in (protocol, *(alias for alias, base in _ALIASES.items() if base == protocol)):
            fsspec.register_implementation(name, kind, clobber=True, errtxt=_NEEDS.get(protocol))


use_own_classes()
