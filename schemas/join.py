"""Joining things that name images a little differently: ids first, else unique base names.

A zip's members carry a folder (``train2014/COCO_1.jpg``) that a caption file does not, a COCO annotation has a
number beside its file name; each finds its image without a table of translations.
"""

from __future__ import annotations

from collections.abc import Iterable
from posixpath import basename

from schemas.errors import RequestError


def match_images(wanted: Iterable[str], available: Iterable[str]) -> dict[str, str]:
    """``{wanted id: available id}``: equal ids, else the one available id with the same base name.

    Ids without a partner are left out. Raises RequestError where a base name fits several.
    """
    exact: set[str] = set()
    by_name: dict[str, list[str]] = {}
    for image_id in available:
        exact.add(image_id)
        by_name.setdefault(basename(image_id), []).append(image_id)
    found = {}
    for image_id in wanted:
        partner = image_id if image_id in exact else _only(image_id, by_name.get(basename(image_id), ()))
        if partner is not None:
            found[image_id] = partner
    return found


def _only(image_id: str, candidates: list[str] | tuple[()]) -> str | None:
    if len(candidates) > 1:
        names = ", ".join(repr(name) for name in sorted(candidates)[:3])
        raise RequestError(f"image {image_id!r} fits {len(candidates)} images ({names}); expected one")
    return candidates[0] if candidates else None
