"""What evaluate and report share: captions read, and joined to their references."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from capmodel.metrics import Evaluation, References
from pipelines.captions import Reference
from schemas import Store, files
from schemas.errors import RequestError
from schemas.join import match_images


@dataclass(frozen=True)
class Pairs:
    """Captions and their references, by the captions' image ids, and what is left over on either side."""

    captions: dict[str, str]
    references: dict[str, list[str]]
    without_caption: list[str]
    without_references: list[str]

    def evaluate(self) -> Evaluation:
        """All scores of the captions."""
        return References(self.references).evaluate(self.captions)

    def leftovers(self) -> str:
        """One sentence on what is left out; empty where nothing is."""
        parts = [
            f"references of {_some(self.without_caption)} without a caption" if self.without_caption else "",
            f"captions of {_some(self.without_references)} without references"
            if self.without_references
            else "",
        ]
        return "left out: " + ", and ".join(part for part in parts if part) if any(parts) else ""


def read_captions(url: str) -> dict[str, str]:
    """Image id to caption (the best one of a row) of a captions store, or of COCO results as JSON.

    Raises RequestError where ``url`` is neither.
    """
    return _from_results(url) if url.split("::")[0].endswith(".json") else _from_store(open_captions(url))


def open_captions(url: str) -> Store:
    """The captions store at ``url``. Raises RequestError for another kind, StoreError for none."""
    store = Store.open(url)
    if store.kind != "captions":
        raise RequestError(f"{url} is a store of {store.kind}; expected one of captions")
    return store


def join_references(captions: Mapping[str, str], references: Iterable[Reference]) -> Pairs:
    """Captions and references of the same images: equal file names or ids, else unique base names.

    Raises RequestError where a name is ambiguous, or nothing is in common.
    """
    references = list(references)
    by_name = match_images([one.file_name for one in references if one.file_name], captions)
    rest = [one for one in references if one.file_name not in by_name]
    by_id = match_images([one.image_id for one in rest if one.image_id], captions)
    partners = [by_name.get(one.file_name) or by_id.get(one.image_id) for one in references]
    _check_partners(captions, references, partners)
    found = {p: one.captions for p, one in zip(partners, references, strict=True) if p is not None}
    return Pairs(
        {image: captions[image] for image in found},
        found,
        [_name(one) for p, one in zip(partners, references, strict=True) if p is None],
        [image for image in captions if image not in found],
    )


def _check_partners(
    captions: Mapping[str, str], references: list[Reference], partners: list[str | None]
) -> None:
    counts = Counter(partner for partner in partners if partner is not None)
    if not counts:
        ours = f"{next(iter(captions))!r}" if captions else "none"
        theirs = f"{_name(references[0])!r}" if references else "none"
        raise RequestError(
            f"{len(captions):,} captions and the references of {len(references):,} images have no image in "
            f"common (captions have {ours}, references {theirs}); expected the same ids or file names"
        )
    partner, count = counts.most_common(1)[0]
    if count > 1:
        names = [_name(one) for one, p in zip(references, partners, strict=True) if p == partner]
        listed = " and ".join(map(repr, names[:2]))
        raise RequestError(f"references of {listed} both fit the caption of {partner!r}; expected one")


def write_output(url: str, data: bytes) -> None:
    """Write a result where the user wants it, whole or not at all. Raises RequestError where that fails."""
    try:
        files.write_atomic(url, data)
    except OSError as err:
        raise RequestError(f"{url!r} cannot be written ({err}); expected a place for a file") from err


def _name(reference: Reference) -> str:
    return reference.file_name or reference.image_id


def _some(ids: list[str]) -> str:
    return f"{len(ids):,} image{'s' * (len(ids) > 1)} (such as {ids[0]!r})"


def _from_store(store: Store) -> dict[str, str]:
    found: dict[str, str] = {}
    for batch in store.scan(["image_id", "captions"]):
        columns = (batch.column(name).to_pylist() for name in ("image_id", "captions"))
        found.update((image, texts[0]["text"]) for image, texts in zip(*columns, strict=True) if texts)
    return found


def _from_results(url: str) -> dict[str, str]:
    try:
        rows = files.read_json(url)
    except FileNotFoundError as err:
        raise RequestError(f"there is no file {url!r}; expected COCO results as JSON") from err
    except ValueError as err:
        raise RequestError(f"{url!r} is not JSON: {err}; expected COCO results") from err
    if not isinstance(rows, list):
        raise RequestError(f"{url!r} holds no list; expected COCO results, [{{image_id, caption}}, ...]")
    found: dict[str, str] = {}
    for number, row in enumerate(rows):
        image, caption = _result(row, f"{url!r}: row {number}")
        if image in found:
            raise RequestError(f"{url!r}: row {number} is the second of image {image!r}; expected one each")
        found[image] = caption
    return found


def _result(row: Any, where: str) -> tuple[str, str]:
    image = row.get("image_id") if isinstance(row, dict) else None
    caption = row.get("caption") if isinstance(row, dict) else None
    if isinstance(image, bool) or not isinstance(image, int | str) or not isinstance(caption, str):
        raise RequestError(f"{where} is {json.dumps(row)[:80]}; expected an object with image_id and caption")
    return str(image), caption
