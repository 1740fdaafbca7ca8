"""Reads captions and joins them with references, for evaluate and report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from captionbeam.capmodel.metrics import Evaluation, References
from captionbeam.jobs.options.shared import require
from captionbeam.pipelines.maintenance.tables import RECORD, with_json_values
from captionbeam.pipelines.tokens import caption_files
from captionbeam.pipelines.tokens.caption_files import Reference
from captionbeam.schemas import Store
from captionbeam.schemas.counts import counted
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.match_ids import match_images
from captionbeam.schemas.storage import files

ONE_IMAGE = (
    "CIDEr is 0 for a single image: it weighs words by how few of the scored images have them in their references, "
    "and here one of one has each"
)
_OTHER_EXPORTS = (".csv", ".parquet", ".tar")
_PARTS = "part-*.jsonl"


@dataclass(frozen=True)
class Pairs:
    """Captions and their references by the captions' image ids, and those without a match."""

    captions: dict[str, str]
    references: dict[str, list[str]]
    without_caption: list[str]
    without_references: list[str]

    def evaluate(self, with_meteor: bool = False) -> Evaluation:
        """Returns all scores of the captions, and METEOR on request. Raises RequestError where that cannot run."""
        return References(self.references).evaluate(self.captions, with_meteor)

    def notes(self) -> list[str]:
        """Returns notes to show with the scores, one sentence each."""
        alone = [ONE_IMAGE] if len(self.captions) == 1 else []
        return [note for note in (self.leftovers(), *alone) if note]

    def leftovers(self) -> str:
        """Returns a sentence about unmatched captions and references; empty if there are none."""
        parts = [
            f"references of {_some(self.without_caption)} without a caption" if self.without_caption else "",
            f"captions of {_some(self.without_references)} without references"
            if self.without_references
            else "",
        ]
        return "left out: " + ", and ".join(part for part in parts if part) if any(parts) else ""


def read_captions(url: str, column: str | None = None) -> dict[str, str]:
    """Returns image id -> caption (a row's best one) of a captions store, its JSON lines export, or COCO results, which
    may be JSON lines too.

    ``column``: which captions, if a store or its export has those of several prompts. An export is its folder or its
    files, with wildcards. Raises RequestError if ``url`` is none of these, or has several columns, or another one.
    """
    name = url.split("::")[0]
    if name == url and (columns := _exported_columns(url, url)):
        return _unique(_rows(files.join(url, _PARTS)), chosen_column(columns, column, url))
    if _is_file(url):
        return _unique(_rows(url), column)
    if name.endswith(_OTHER_EXPORTS):
        _exported_columns(files.absolute(url).rpartition("/")[0], url)
    store = open_captions(url)
    return _from_store(store, chosen_column(store.columns, column, url))


def read_kept(url: str) -> dict[str, dict[str, Any]]:
    """Returns image id -> its columns kept from the input, with values of JSON's types.

    ``url``: as for ``read_captions``, a captions store, or the folder of its export. Others have none.
    """
    if _is_file(url):
        return {}
    if files.exists(place := files.join(url, RECORD)):
        names = files.read_json(place).get("kept", [])
        rows = (row for _, row in _rows(files.join(url, _PARTS)))
    else:
        store = open_captions(url)
        names = store.kept.names
        batches = store.scan(["image_id", *names])
        rows = (row for batch in batches for row in with_json_values(batch, names).to_pylist())
    return {row["image_id"]: {name: row[name] for name in names} for row in rows} if names else {}


def read_scores(url: str, column: str | None = None) -> dict[str, float]:
    """Returns image id -> score of its best caption against the image, of a captions store that has them."""
    if _is_file(url) or files.exists(files.join(url, RECORD)):
        return {}
    store = open_captions(url)
    name = chosen_column(store.columns, column, url)
    rows = (
        [row for batch in store.scan(["image_id", name]) for row in batch.to_pylist()]
        if "scorer" in store.spec
        else []
    )
    found = {row["image_id"]: row[name][0].get("score") for row in rows if row[name]}
    return {image: score for image, score in found.items() if score is not None}


def chosen_column(columns: Sequence[str], column: str | None, url: str) -> str:
    """Returns the column of captions to read, of all ``columns`` of a store. Raises RequestError."""
    names = ", ".join(columns)
    if column is None:
        require(
            len(columns) == 1,
            f"{url} has answers to several prompts; expected --column with one of {names}",
        )
        return columns[0]
    require(column in columns, f"--column {column} is not in {url}; expected one of {names}")
    return column


def _exported_columns(folder: str, url: str) -> list[str]:
    """Returns the columns of captions if ``folder`` is an export as JSON lines, else none.

    Raises RequestError for another format of ``url``.
    """
    place = files.join(folder, RECORD)
    if not files.exists(place):
        return []
    try:
        record = files.read_json(place)
        kind, columns = record["format"], list(record["columns"])
    except (ValueError, TypeError, KeyError) as err:
        raise RequestError(f"{place!r} is not the record of an export; expected a whole one") from err
    require(kind == "jsonl", f"{url!r} is an export as {kind}; expected --format jsonl")
    return columns


def _is_file(url: str) -> bool:
    """Whether ``url`` is a file of results or of an export, or several, and no folder."""
    return "::" in url or _is_json(url) or _plain(url).endswith((".jsonl", ".ndjson"))


def _is_json(url: str) -> bool:
    return _plain(url).endswith(".json")


def _plain(url: str) -> str:
    return url.split("::")[0].lower().removesuffix(".gz")


def open_captions(url: str) -> Store:
    """Opens the captions store at ``url``. Raises RequestError for another kind, StoreError if there is none."""
    store = Store.open(url)
    if store.kind != "captions":
        raise RequestError(f"{url} is a store of {store.kind}; expected one of captions")
    return store


def read_references(
    urls: Sequence[str], member: str | None = None, split: str | None = None
) -> list[list[Reference]]:
    """Returns the references of each caption file, limited to ``split`` if given. Raises RequestError."""
    for url, count in Counter(urls).items():
        require(count == 1, f"--references names {url!r} {count} times; expected each file once")
    return [caption_files.read_references(url, member, split) for url in urls]


def join_references(captions: Mapping[str, str], *several: Iterable[Reference]) -> Pairs:
    """Joins captions and references by equal file names or ids, else by unique base names.

    ``several``: the references of each file; those of one image are combined in order. Raises RequestError if a name is
    ambiguous, or if there are no common images.
    """
    known = [list(references) for references in several]
    found: dict[str, list[str]] = {}
    alone: dict[str, None] = {}
    for references in known:
        for one, partner in zip(references, _partners(captions, references), strict=True):
            if partner is None:
                alone[_name(one)] = None
            else:
                found.setdefault(partner, []).extend(one.captions)
    if not found:
        raise RequestError(_nothing_in_common(captions, [one for references in known for one in references]))
    written = {image: captions[image] for image in found}
    return Pairs(written, found, list(alone), [image for image in captions if image not in found])


def _partners(captions: Mapping[str, str], references: list[Reference]) -> list[str | None]:
    """Returns the caption id of each reference of one file. Raises RequestError if two have the same."""
    by_name = match_images([one.file_name for one in references if one.file_name], captions)
    rest = [one for one in references if one.file_name not in by_name]
    by_id = match_images([one.image_id for one in rest if one.image_id], captions)
    partners = [by_name.get(one.file_name) or by_id.get(one.image_id) for one in references]
    names: dict[str, str] = {}
    for one, partner in zip(references, partners, strict=True):
        if partner in names:
            raise RequestError(
                f"references of {names[partner]!r} and {_name(one)!r} both fit the caption of {partner!r}; expected one"
            )
        if partner is not None:
            names[partner] = _name(one)
    return partners


def _nothing_in_common(captions: Mapping[str, str], references: Sequence[Reference]) -> str:
    ours = f"{next(iter(captions))!r}" if captions else "none"
    theirs = f"{_name(references[0])!r}" if references else "none"
    return (
        f"{len(captions):,} captions and the references of {len(references):,} images have no image in "
        f"common (captions have {ours}, references {theirs}); expected the same ids or file names"
    )


def write_output(url: str, data: bytes) -> None:
    """Writes a result file atomically. Raises RequestError if that fails."""
    try:
        files.write_atomic(url, data)
    except OSError as err:
        raise RequestError(f"{url!r} cannot be written ({err}); expected a place for a file") from err


def _name(reference: Reference) -> str:
    return reference.file_name or reference.image_id


def _some(ids: list[str]) -> str:
    return f"{counted(len(ids), 'image')} (such as {ids[0]!r})"


def _from_store(store: Store, column: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for batch in store.scan(["image_id", column]):
        columns = (batch.column(name).to_pylist() for name in ("image_id", column))
        found.update((image, texts[0]["text"]) for image, texts in zip(*columns, strict=True) if texts)
    return found


def _rows(url: str) -> Iterator[tuple[str, Any]]:
    """Yields the rows of COCO results, or of ``store export --format jsonl``, each with its position."""
    for found in caption_files.find_captions(url):
        with caption_files.opened(found) as stream:
            yield from (_list if _is_json(found.url) else _lines)(stream, repr(found.url))


def _list(stream: BinaryIO, where: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(stream.read())
    except ValueError as err:
        raise RequestError(f"{where} is not JSON: {err}; expected COCO results") from err
    if not isinstance(rows, list):
        raise RequestError(f"{where} holds no list; expected COCO results, [{{image_id, caption}}, ...]")
    for number, row in enumerate(rows):
        yield f"{where}: row {number}", row


def _lines(stream: BinaryIO, where: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as err:
            raise RequestError(
                f"{where}: line {number} is not JSON: {err}; expected a row of a captions store or of COCO results"
            ) from err
        yield f"{where}: line {number}", row


def _unique(rows: Iterable[tuple[str, Any]], column: str | None) -> dict[str, str]:
    name = column or "captions"
    found: dict[str, str] = {}
    for where, row in rows:
        if isinstance(row, dict) and row.get(name) == []:  # an image without a caption
            continue
        image, caption = _result(row, where, name)
        if image in found:
            raise RequestError(f"{where} is the second of image {image!r}; expected one each")
        found[image] = caption
    return found


def _result(row: Any, where: str, column: str) -> tuple[str, str]:
    """Returns the image and its caption, the first one of a store's row."""
    given = row if isinstance(row, dict) else {}
    image, caption = given.get("image_id", given.get("file_name")), given.get("caption")
    if isinstance(given.get(column), list):  # also of a prompt that is named caption
        best = next(iter(given[column]), None)
        caption = best.get("text") if isinstance(best, dict) else None
    if isinstance(image, bool) or not isinstance(image, int | str) or not isinstance(caption, str):
        raise RequestError(
            f"{where} is {json.dumps(row)[:80]}; expected an object with image_id (or file_name) and caption"
        )
    return str(image), caption
