"""Passes storage options to workers, and workers' errors back to the launcher.

Runners pass a worker's exception to the launcher as text, each with its own wrapping. A captionbeam error is
therefore enclosed in marks, by which the launcher finds its message.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from captionbeam.schemas import errors
from captionbeam.schemas.errors import CaptionbeamError, ImageError, SystemicError
from captionbeam.schemas.storage import options as storage_options

MARK = "<captionbeam "
_MARKED = re.compile(MARK + r"(\w+)>(.*?)</captionbeam>", re.DOTALL)


class WorkerError(RuntimeError):
    """A captionbeam error on its way from a worker to the launcher."""


def marked(error: CaptionbeamError) -> WorkerError:
    """Returns ``error`` in a form that runners preserve."""
    return WorkerError(f"{MARK}{type(error).__name__}>{error}</captionbeam>")


def unmarked(error: BaseException) -> CaptionbeamError | None:
    """Returns the first captionbeam error in a runner's exception, or None."""
    if isinstance(error, CaptionbeamError):
        return error
    found = _MARKED.search(str(error).replace("\\n", "\n"))
    if found is None:
        return None
    kind = getattr(errors, found[1], CaptionbeamError)
    return CaptionbeamError(found[2]) if kind is ImageError else kind(found[2])


@contextmanager
def worker_boundary(options: storage_options.Options) -> Iterator[None]:
    """Opens filesystems with the job's ``options``, which ``storage.options.current()`` returned on the launcher.

    Marks captionbeam errors for the launcher. Converts an OSError of the storage to a SystemicError.
    """
    storage_options.use(options)
    try:
        yield
    except CaptionbeamError as err:
        raise marked(err) from err
    except OSError as err:
        place = f" ({err.filename})" if err.filename else ""
        said = SystemicError(
            f"the storage refused: {err.strerror or err}{place}; expected it to be there, with room"
        )
        raise marked(said) from err


def across_workers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``function`` (or generator function) in ``worker_boundary``, with the launcher's current options."""
    options = storage_options.current()
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generating(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with worker_boundary(options):
                yield from function(*args, **kwargs)

        return generating

    @functools.wraps(function)
    def calling(*args: Any, **kwargs: Any) -> Any:
        with worker_boundary(options):
            return function(*args, **kwargs)

    return calling
