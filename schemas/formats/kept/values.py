"""An image's kept columns as text, in which they travel with its reference and stand beside the typed values."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

MOST_BYTES = 4096  # of one image's values as text
EMPTY = "empty_places"
CELLS = "="  # before an object of CSV cells
_SURROGATE = re.compile("[\ud800-\udfff]")  # alone it is no text; JSON has escapes for it


def packed(values: Mapping[str, Any]) -> str:
    """Returns typed values (of JSON's types, or from ``plain_values``) as text; '' if there are none."""
    there = {name: value for name, value in values.items() if value is not None}
    return json_text(there) if there else ""


def packed_cells(cells: Mapping[str, str | None]) -> str:
    """Returns cells of CSV as text; '' if all are empty."""
    text = packed({name: cell for name, cell in cells.items() if cell})
    return CELLS + text if text else ""


def unpacked(text: str) -> dict[str, Any]:
    """Returns the values of ``packed``, or the cells of ``packed_cells``."""
    values: dict[str, Any] = json.loads(text.removeprefix(CELLS)) if text else {}
    return values


def selected(text: str, names: Collection[str]) -> str:
    """Returns an image's values in the columns ``names`` as text of the same kind; '' for none."""
    there = packed({name: value for name, value in unpacked(text).items() if name in names})
    return CELLS + there if there and text.startswith(CELLS) else there


def combined(text: str, more: str) -> str:
    """Returns the values of both, those of ``more`` for a column in both. Cells beside typed values are text."""
    if not text or not more:
        return text or more
    both = packed({**unpacked(text), **unpacked(more)})
    return CELLS + both if text.startswith(CELLS) and more.startswith(CELLS) else both


def columns_hash(text: str) -> str:
    """Returns 16 hexadecimal digits that change if a value does; '' for no values."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest() if text else ""


def used_values(text: str, names: Collection[str]) -> str:
    """Returns an image's values in the columns ``names``, each as text, as an object like that of ``packed``.

    Text stands as it is, also that of CSV's cells; other values are JSON. Null, NaN and empty text are left out.
    """
    if not text or not names:
        return ""
    there = ((name, value) for name, value in unpacked(text).items() if name in names)
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in there
        if not (isinstance(value, float) and math.isnan(value))
    }
    return packed({name: value for name, value in texts.items() if value})


def lacking(text: str, names: Collection[str]) -> list[str]:
    """Returns those of the columns ``names`` in which an image has no value, or only blanks."""
    values: dict[str, str] = unpacked(used_values(text, names))
    return [name for name in names if not values.get(name, "").strip()]


def empty_places(texts: Iterable[str], names: Collection[str]) -> Counter[str]:
    """Returns how many images have no value in one of the columns ``names`` (``empty_places``), and how many have none
    in each (``empty_places_NAME``); nothing where all have values.

    ``texts``: the images' kept columns.
    """
    counts = Counter[str]()
    for text in texts:
        if lacks := lacking(text, names):
            counts.update([EMPTY, *(f"{EMPTY}_{name}" for name in lacks)])
    return counts


def empty_columns(counts: Mapping[str, int]) -> dict[str, int]:
    """Returns by column how many images have no value in it, from counts like those of ``empty_places``."""
    prefix = f"{EMPTY}_"
    return {name.removeprefix(prefix): n for name, n in sorted(counts.items()) if name.startswith(prefix)}


def largest(text: str) -> tuple[str, int]:
    """Returns the column with the longest value, and that value's length in bytes as text."""
    sizes = {name: len(packed({name: value}).encode()) for name, value in unpacked(text).items()}
    name = max(sizes, key=lambda one: sizes[one])
    return name, sizes[name]


def json_text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
    return _SURROGATE.sub("\ufffd", text)
