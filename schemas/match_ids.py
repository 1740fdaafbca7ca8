"""Matches image ids that are written in slightly different ways: by id first, else by unique base name.

Examples: a zip's members have a folder (``train2014/COCO_1.jpg``, with a backslash in some zips made on Windows) that
the caption file leaves out; a COCO annotation has a number next to its file name; a file system decomposes an ``é``
that is one character in the caption file. Names are compared in Unicode form NFC and returned as they are written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from captionbeam.schemas.errors import RequestError


def match_images(wanted: Iterable[str], available: Iterable[str]) -> dict[str, str]:
    """Returns ``{wanted id: available id}``: the equal id, else the only available id with the same base name.

    Ids without a match are left out. Raises RequestError if a base name matches several ids, or if two ids of one
    side differ only in their Unicode form.
    """
    by_id = normalised(available)
    by_name: dict[str, list[str]] = {}
    for image_id in by_id:
        by_name.setdefault(_base_name(image_id), []).append(image_id)
    found = {}
    for image_id, written in normalised(wanted).items():
        partner = image_id if image_id in by_id else _only(image_id, by_name.get(_base_name(image_id), ()))
        if partner is not None:
            found[written] = by_id[partner]
    return found


def normalised(image_ids: Iterable[str]) -> dict[str, str]:
    """Returns ``{id in Unicode form NFC: id as written}``. Raises RequestError if two ids differ only in form."""
    found: dict[str, str] = {}
    for image_id in image_ids:
        other = found.setdefault(normal(image_id), image_id)
        if other != image_id:
            first, second = sorted((ascii(other), ascii(image_id)))
            raise RequestError(
                f"two images have the id {image_id!r}, once written {first} and once {second}: the same text in two "
                "Unicode forms; expected one"
            )
    return found


def normal(image_id: str) -> str:
    """Returns ``image_id`` in Unicode form NFC, in which ids are compared."""
    return unicodedata.normalize("NFC", image_id)


def _base_name(image_id: str) -> str:
    return re.split(r"[/\\]", image_id)[-1]


def _only(image_id: str, candidates: list[str] | tuple[()]) -> str | None:
    if len(candidates) > 1:
        names = ", ".join(repr(name) for name in sorted(candidates)[:3])
        raise RequestError(f"image {image_id!r} fits {len(candidates)} images ({names}); expected one")
    return candidates[0] if candidates else None
