"""Finds the columns of URIs, ids and image bytes by their names as people write them, or by their values."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from captionbeam.pipelines.sources.spec import SourceSpec, is_image_name
from captionbeam.schemas.errors import SourceError

URI_COLUMNS = (
    "uri", "url", "image_url", "image_uri", "path", "file_path", "image_path", "file_name", "filename",
)  # fmt: skip
ID_COLUMNS = ("image_id", "id", "key", "__key__")
FIRST_ROWS = 100
"""Number of rows in which columns are looked for by their values."""
_SEPARATORS = re.compile(r"[\s_-]+")


def find_named(wanted: str, names: Collection[str]) -> str:
    """Returns ``wanted`` if it is one of ``names``, else the only name that differs by case, separators and accents
    that are letters of their own (NFD); else ''.

    ``image_url`` finds ``Image_Url``, ``IMAGE URL``, ``image-url`` and ``imageUrl``.
    """
    if wanted in names:
        return wanted
    fits = [name for name in names if _folded(name) and _folded(name) == _folded(wanted)]
    return fits[0] if len(fits) == 1 else ""


def find_first(usual: Iterable[str], names: Collection[str]) -> str:
    """Returns ``find_named`` for the first of the ``usual`` names for which there is a column; '' if there is none."""
    return next((found for name in usual if (found := find_named(name, names))), "")


def of_images(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the columns that hold nothing but locations of images in ``rows``: URLs and paths with an image's suffix.

    A column whose own name is such a location is none: the list has no line of column names.
    """
    found: dict[str, bool] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None and str(value).strip():
                found[name] = found.get(name, True) and is_location(value)
    return [name for name, holds in found.items() if holds and not is_location(name)]


def is_location(value: Any) -> bool:
    """Returns whether ``value`` is text that names one image."""
    return isinstance(value, str) and is_image_name(value.strip())


def named(names: Iterable[str]) -> str:
    """Returns the names for a sentence."""
    return ", ".join(map(repr, names))


def expected_uris(wanted: str | None, images: Sequence[str], usual: str) -> str:
    """Returns what was expected where no column of URIs is found. ``images``: several columns that hold images."""
    if wanted:
        return repr(wanted)
    if images:
        return f"--uri-column NAME, as {' and '.join(map(repr, images))} all hold images"
    return f"{usual}, or --uri-column NAME"


def no_id(spec: SourceSpec, row: int) -> SourceError:
    """Returns the error of a row, counted from 1, without a value in the column of ids that the user named."""
    return SourceError(
        f"source {spec.url!r}: row {row} has no id in the column {spec.id_column!r}; expected one in each row"
    )


def _folded(name: str) -> str:
    return _SEPARATORS.sub("", unicodedata.normalize("NFC", name)).casefold()
