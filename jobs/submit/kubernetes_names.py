"""Validates Kubernetes names, labels and sizes before a request is sent."""

from __future__ import annotations

import re

from captionbeam.schemas.errors import RequestError

NAME = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
LONGEST_NAME, LONGEST_WORD = 253, 63


def check_name(option: str, text: str | None) -> None:
    """Validates an object's name, if given. Raises RequestError."""
    wanted = "a name of a-z, 0-9, '-' and '.', a letter or digit at both ends"
    _check(option, text, rf"{NAME}(\.{NAME})*", LONGEST_NAME, wanted)


def check_namespace(option: str, text: str | None) -> None:
    """Validates a namespace, if given. Raises RequestError."""
    _check(option, text, NAME, LONGEST_WORD, "a name of a-z, 0-9 and '-', a letter or digit at both ends")


def check_quantity(option: str, text: str | None) -> None:
    """Validates a size, if given. Raises RequestError."""
    _check(option, text, r"\d+(\.\d+)?([kMGTPE]i?)?", LONGEST_WORD, "a size such as 500M or 64Gi")


def check_label(option: str, name: str, value: str) -> None:
    """Validates a label's name, with or without a prefix, and its value. Raises RequestError."""
    prefix, slash, word = name.rpartition("/")
    if slash:
        check_name(option, prefix or name)
    wanted = (
        f"NAME=VALUE, each of up to {LONGEST_WORD} letters, digits and - _ ., a letter or digit at both ends"
    )
    for text in (word, *([value] if value else [])):
        _check(option, text, WORD, LONGEST_WORD, wanted)


def check_variable(option: str, name: str) -> None:
    """Validates the name of an environment variable. Raises RequestError."""
    _check(option, name, r"[A-Za-z_.-][A-Za-z0-9_.-]*", LONGEST_NAME, "a name of letters, digits and _ . -")


def literal(words: tuple[str, ...] | list[str]) -> list[str]:
    """Escapes a command for Kubernetes, which expands ``$(NAME)`` and reads ``$$`` as ``$``."""
    return [word.replace("$", "$$") for word in words]


def _check(option: str, text: str | None, pattern: str, longest: int, wanted: str) -> None:
    if text is not None and not (len(text) <= longest and re.fullmatch(pattern, text)):
        raise RequestError(f"{option} is {text!r}; expected {wanted}")
