"""Across the worker boundary: the storage's options to workers, their errors back.

Runners hand a worker's exception to the launcher as text, each in its own wrapping. An error of ours is therefore
put between marks that survive it, and the launcher finds the sentence again.
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
    """An error of ours on its way from a worker to the launcher."""


def marked(error: CaptionbeamError) -> WorkerError:
    """``error`` in the form that survives a runner."""
    return WorkerError(f"{MARK}{type(error).__name__}>{error}</captionbeam>")


def unmarked(error: BaseException) -> CaptionbeamError | None:
    """The first error of ours inside a runner's exception, or None."""
    if isinstance(error, CaptionbeamError):
        return error
    found = _MARKED.search(str(error).replace("\\n", "\n"))
    if found is None:
        return None
    kind = getattr(errors, found[1], CaptionbeamError)
    return CaptionbeamError(found[2]) if kind is ImageError else kind(found[2])


@contextmanager
def crossing(options: storage_options.Options) -> Iterator[None]:
    """Open filesystems with the job's ``options``, as ``storage.current()`` had them on the launcher.

    Raises what is raised inside so that the launcher can read it; a refusing storage as a SystemicError.
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
    """``function`` (or generator function) ``crossing``, with the options that the launcher has now."""
    options = storage_options.current()
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generating(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with crossing(options):
                yield from function(*args, **kwargs)

        return generating

    @functools.wraps(function)
    def calling(*args: Any, **kwargs: Any) -> Any:
        with crossing(options):
            return function(*args, **kwargs)

    return calling
