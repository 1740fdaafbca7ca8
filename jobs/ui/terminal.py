"""Standard output and error: single-line names and captions, and closed or broken streams."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

# Line ends, cursor movement, text direction, and lone surrogates, which cannot be encoded.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile(r"\s*[\r\n]\s*")  # other spaces may be those of a name


def visible(text: object) -> str:
    r"""Returns ``text`` as one line, with control characters as escapes (``\n``, ``\x1b``)."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


_speaking = False


def speak(on: bool) -> bool:
    """Turns on or off what commands print; returns the earlier state. Used from Python they are silent."""
    global _speaking
    before, _speaking = _speaking, on
    return before


def is_speaking() -> bool:
    """Whether commands print."""
    return _speaking


def say(text: object, to_error: bool = False) -> None:
    """Prints ``text`` on standard output, or with ``to_error`` on standard error, if commands print."""
    if _speaking:
        print(text, file=sys.stderr if to_error else sys.stdout, flush=True)


def note(text: object, to_error: bool = False) -> None:
    """Prints ``text`` as one line that begins with "note:"."""
    say(f"note: {visible(text)}", to_error)


def one_line(error: BaseException) -> str:
    """Returns an error's message as one line."""
    return visible(_BREAKS.sub(" ", str(error)).strip())


def open_closed_streams() -> None:
    """Opens closed standard streams on the null device, so that no other file gets their numbers."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))


def drop_output() -> None:
    """Redirects standard output and error to the null device, after their reader has closed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
