"""Standard output and error: names and captions as one line each, and streams that are closed or break."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

# What ends a line, moves a cursor or turns the direction of text; lone surrogates, which cannot be written.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    r"""``text`` with control characters as escapes (``\n``, ``\x1b``): one line, whatever an id or a caption holds."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def one_line(error: BaseException) -> str:
    """An error's message as one line."""
    return visible(" ".join(str(error).split()))


def open_closed_streams() -> None:
    """Where the shell closed standard output or error, what is said goes nowhere, and no file takes its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))


def drop_output() -> None:
    """From now on nothing is said: whoever read it is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
