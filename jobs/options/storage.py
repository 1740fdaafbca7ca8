"""--storage-options: fsspec options by protocol, for the launcher and all workers."""

from __future__ import annotations

import difflib
import inspect
import json
from typing import Any

from captionbeam.jobs.options.shared import require
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files
from captionbeam.schemas.storage import options as storage_options

# Accepted by every fsspec filesystem, or (profile) passed by s3fs to its session.
_COMMON = {"asynchronous", "listings_expiry_time", "max_paths", "skip_instance_cache", "use_listings_cache"}
_PASSED_ON = {"s3": {"profile"}}
EXAMPLE = '{"gs": {"requester_pays": "my-project"}}'


def use_storage_options(given: str | None) -> None:
    """Applies the storage options to this process and its workers. Raises RequestError."""
    storage_options.use(parsed(given) if given else {})


def parsed(text: str) -> storage_options.Options:
    """Returns the options in ``text``, which is JSON or the name of a JSON file. Raises RequestError."""
    is_json = text.lstrip().startswith(("{", "[", '"'))
    expected = f"expected JSON like {EXAMPLE}, or a file of it"
    try:
        data = text if is_json else files.read_bytes(text)
    except (OSError, ValueError) as err:  # the error's message may contain the text, and so a secret
        raise RequestError(f"--storage-options names no file that can be read; {expected}") from err
    try:
        found = json.loads(data)
    except ValueError as err:
        raise RequestError(f"--storage-options cannot be read: {err}; {expected}") from err
    is_nested = isinstance(found, dict) and all(isinstance(values, dict) for values in found.values())
    require(is_nested, f"--storage-options is not an object of objects; expected one like {EXAMPLE}")
    for protocol, values in found.items():
        _check(protocol, values)
    return storage_options.plain(found)


def _check(protocol: str, values: dict[str, Any]) -> None:
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as err:
        raise RequestError(f"--storage-options names {protocol!r}: {err}") from err
    except ValueError as err:
        raise RequestError(
            f"--storage-options names {protocol!r}: {err}; expected one like 'gs' or 's3'"
        ) from err
    if not storage_options.has_retries(kind):
        return  # http accepts any option; other classes cannot be checked
    # fsspec's metaclass hides the class's own signature, so look at __init__
    made = [vars(base)["__init__"] for base in kind.__mro__[:-1] if "__init__" in vars(base)]
    known = {name for each in made for name in inspect.signature(each).parameters}
    known |= _COMMON | _PASSED_ON.get(storage_options.name_of(protocol), set())
    for name in values.keys() - known:
        near = difflib.get_close_matches(name, sorted(known), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RequestError(
            f"--storage-options has {name!r} for {protocol!r}; expected an option of its fsspec class{hint}"
        )
