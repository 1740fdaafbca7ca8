"""Joining things that name images a little differently: ids first, else unique base names.

A zip's members carry a folder (``train2014/COCO_1.jpg``) that a caption file does not, a COCO annotation has a
number beside its file name, a file system decomposes the ``é`` that a caption file has in one piece; each finds its
image without a table of translations. Names are compared in Unicode's form NFC, and joined as they are written.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from posixpath import basename

from captionbeam.schemas.errors import RequestError


def match_images(wanted: Iterable[str], available: Iterable[str]) -> dict[str, str]:
    """``{wanted id: available id}``: equal ids, else the one available id with the same base name.

    Ids without a partner are left out. Raises RequestError where a base name fits several, and where two ids of one
    side are the same in another Unicode form.
    """
    by_id = normalised(available)
    by_name: dict[str, list[str]] = {}
    for image_id in by_id:
        by_name.setdefault(basename(image_id), []).append(image_id)
    found = {}
    for image_id, written in normalised(wanted).items():
        partner = image_id if image_id in by_id else _only(image_id, by_name.get(basename(image_id), ()))
        if partner is not None:
            found[written] = by_id[partner]
    return found


def normalised(image_ids: Iterable[str]) -> dict[str, str]:
    """``{id in Unicode's form NFC: id as it is written}``. Raises RequestError where two differ in nothing else."""
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
    """``image_id`` in Unicode's form NFC: as ids are compared."""
    return unicodedata.normalize("NFC", image_id)


def _only(image_id: str, candidates: list[str] | tuple[()]) -> str | None:
    if len(candidates) > 1:
        names = ", ".join(repr(name) for name in sorted(candidates)[:3])
        raise RequestError(f"image {image_id!r} fits {len(candidates)} images ({names}); expected one")
    return candidates[0] if candidates else None
