"""Prompts with columns of the input: ``Describe this {category} called {Image Title}.``

``{name}`` stands for the image's value in the column ``name``, and ``{{name}}`` for the text ``{name}``. A name begins
with a letter or ``_`` and has no braces, quotes, colons, commas or line breaks. Other braces stay as they are, such as
those of JSON. Names are compared in Unicode's composed form (NFC).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from captionbeam.schemas.errors import ImageError

_FIELD = re.compile(r"""(?<!\{)(\{+)([^\W\d][^{}"':,\r\n]*)(\}+)""")  # a run of braces is tried once

_BRACES = re.compile(r"\{+([^{}\r\n]*)\}*")


def columns_in(text: str) -> list[str]:
    """Returns the names of the columns that a prompt's text names, composed and sorted."""
    return sorted({_composed(found[2]) for found in _FIELD.finditer(text) if _pairs(found) % 2})


def filled(text: str, values: Mapping[str, str]) -> str:
    """Returns a prompt's text with the ``values`` of one image; those that are not there are empty."""

    def fill(found: re.Match[str]) -> str:
        opening, name, closing = found.groups()
        pairs = _pairs(found)
        inside = values.get(_composed(name), "") if pairs % 2 else name
        literal = pairs // 2
        return opening[: len(opening) - pairs + literal] + inside + closing[: len(closing) - pairs + literal]

    return _FIELD.sub(fill, text)


def unfilled(text: str, columns: Collection[str]) -> dict[str, str]:
    """Returns the parts of a prompt's text that are sent as they are although they look like one of ``columns``, with
    its name: ``{ category }``, ``{category:>10}``, ``{category``.
    """
    found = {}
    for braces in _BRACES.finditer(_FIELD.sub(" ", text)):
        inside = braces[1].strip().casefold()
        begun = [
            name for name in columns if name and re.match(rf"{re.escape(name.casefold())}(?!\w)", inside)
        ]
        if begun:
            found[braces[0].strip()] = max(begun, key=len)
    return found


def question(name: str, text: str, values: Mapping[str, str]) -> str:
    """Returns the text of the prompt ``name`` with the ``values`` of one image. Raises ImageError if it is blank."""
    asked = filled(text, values)
    if not asked.strip():
        places = ", ".join(f"{{{column}}}" for column in columns_in(text))
        said = f"the prompt {name!r} is empty, as the image has no value for {places}"
        raise ImageError("empty_prompt", "model", said)
    return asked


def columns_of_prompts(spec: Mapping[str, Any]) -> list[str]:
    """Returns the names of the columns that the prompts of a store's specification name, sorted."""
    return sorted({name for names in columns_by_prompt(spec).values() for name in names})


def columns_by_prompt(spec: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the names of the columns that each prompt of a store's specification names; empty without prompts."""
    return {column: columns_in(own["text"]) for column, own in (spec.get("prompts") or {}).items()}


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _pairs(found: re.Match[str]) -> int:
    return min(len(found[1]), len(found[3]))
