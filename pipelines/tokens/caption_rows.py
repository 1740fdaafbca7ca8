"""The rows of caption files: COCO's JSON, Karpathy's split JSON, JSON lines and Parquet.

======================= ==============================================================================
COCO JSON               ``images`` (``id``, ``file_name``) and ``annotations`` (``image_id``, ``caption``)
Karpathy's JSON         ``images`` (``filename``, ``split``, ``sentences[].raw``; ``filepath``, ``cocoid``)
JSON lines, Parquet     ``image_id`` and/or ``file_name``; ``caption`` or a list ``captions``; optional ``split``
======================= ==============================================================================

Invalid content raises RequestError with the file, the row and what was expected. Nothing is skipped. Karpathy's
``restval`` counts as ``train``, as is usual.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from captionbeam.schemas.errors import RequestError

SPLITS = {
    "train": "train", "restval": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
ROW_COLUMNS = ("image_id", "file_name", "caption", "captions", "split")


class CaptionRecord(NamedTuple):
    """One caption. ``image_id`` is the file's own id; ``split`` is train, val or test. Both are '' if not given."""

    image_id: str
    file_name: str
    caption: str
    split: str

    @property
    def key(self) -> str:
        """The image's name across files: its file name, else its id."""
        return self.file_name or self.image_id


def _read_json(stream: BinaryIO, where: str) -> Iterator[CaptionRecord]:
    content = _parse(stream.read(), where)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        if isinstance(content.get("annotations"), list):
            return _read_coco(content, where)
        images = content["images"]
        if images and all(isinstance(image, dict) and "sentences" in image for image in images):
            return _read_karpathy(content, where)
    raise RequestError(
        f"{where} is neither COCO's captions (images, annotations) nor Karpathy's (images with sentences)"
    )


def _read_coco(content: Mapping[str, Any], where: str) -> Iterator[CaptionRecord]:
    names = _coco_names(content["images"], where)
    for number, annotation in enumerate(content["annotations"]):
        row = f"{where}: annotations[{number}]"
        image_id = _identity(_field(annotation, "image_id", row), "image_id", row)
        if image_id not in names:
            raise RequestError(
                f"{row} has image_id {image_id}; expected one of the file's {len(names)} images"
            )
        yield CaptionRecord(image_id, names[image_id], _text(_field(annotation, "caption", row), row), "")


def _coco_names(images: list[Any], where: str) -> dict[str, str]:
    """Returns ``{id: file name}``. Both must be unique in the file."""
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for number, image in enumerate(images):
        row = f"{where}: images[{number}]"
        image_id = _identity(_field(image, "id", row), "id", row)
        name = _file_name(image.get("file_name"), row)
        if image_id in names:
            raise RequestError(f"{row} has id {image_id}, which an image before it has; expected unique ids")
        if name and ids.setdefault(name, image_id) != image_id:
            raise RequestError(
                f"{row} has file_name {name!r}, which image {ids[name]} has; expected unique names"
            )
        names[image_id] = name
    return names


def _read_karpathy(content: Mapping[str, Any], where: str) -> Iterator[CaptionRecord]:
    for number, image in enumerate(content["images"]):
        row = f"{where}: images[{number}]"
        folder = _file_name(image.get("filepath"), row)
        name = _file_name(_field(image, "filename", row), row)
        image_id = image.get("cocoid", image.get("imgid"))
        identity = "" if image_id is None else _identity(image_id, "cocoid", row)
        split = _split(_field(image, "split", row), row)
        for sentence in _list(image["sentences"], "sentences", row):
            raw = _text(_field(sentence, "raw", row), row)
            yield CaptionRecord(identity, f"{folder}/{name}" if folder else name, raw, split)


def _read_lines(stream: BinaryIO, where: str) -> Iterator[CaptionRecord]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            row = f"{where}: line {number}"
            yield from _row_records(_parse(line, row), row)


def _read_parquet(stream: BinaryIO, where: str) -> Iterator[CaptionRecord]:
    try:
        table = pq.ParquetFile(stream)
    except pa.ArrowInvalid as err:
        raise RequestError(f"{where} is not readable as Parquet ({err})") from err
    names = [name for name in ROW_COLUMNS if name in table.schema_arrow.names]
    if not {"image_id", "file_name"} & set(names) or not {"caption", "captions"} & set(names):
        raise RequestError(
            f"{where} has the columns {table.schema_arrow.names}; "
            "expected image_id or file_name, and caption or captions"
        )
    number = 0
    for batch in table.iter_batches(columns=names):
        for row in batch.to_pylist():
            yield from _row_records(row, f"{where}: row {number}")
            number += 1


def _row_records(row: Any, where: str) -> Iterator[CaptionRecord]:
    """Yields the captions of one JSON line or Parquet row. Null counts as absent."""
    if not isinstance(row, dict):
        raise RequestError(
            f"{where} is {_shown(row)}; expected an object with image_id or file_name, and caption"
        )
    given = {name: value for name, value in row.items() if value is not None}
    image_id = _identity(given["image_id"], "image_id", where) if "image_id" in given else ""
    name = _file_name(given.get("file_name"), where)
    if not (image_id or name):
        raise RequestError(f"{where} names no image; expected image_id or file_name")
    if ("caption" in given) == ("captions" in given):
        raise RequestError(f"{where} has both caption and captions, or neither; expected one of them")
    captions = _list(given["captions"], "captions", where) if "captions" in given else [given["caption"]]
    split = _split(given["split"], where) if "split" in given else ""
    for caption in captions:
        yield CaptionRecord(image_id, name, _text(caption, where), split)


READERS = {".json": _read_json, ".jsonl": _read_lines, ".ndjson": _read_lines, ".parquet": _read_parquet}


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as err:  # UnicodeDecodeError is a ValueError
        raise RequestError(f"{where} is not JSON: {err}") from err


def _field(holder: Any, name: str, where: str) -> Any:
    if not isinstance(holder, dict) or holder.get(name) is None:
        raise RequestError(f"{where} is {_shown(holder)}; expected an object with {name!r}")
    return holder[name]


def _list(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise RequestError(f"{where} has {name} {_shown(value)}; expected a list")
    return value


def _identity(value: Any, name: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise RequestError(f"{where} has {name} {_shown(value)}; expected a whole number or a string")
    return str(value)


def _file_name(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RequestError(f"{where} has the file name {_shown(value)}; expected a string")
    return value


def _split(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in SPLITS:
        raise RequestError(f"{where} has split {_shown(value)}; expected one of {', '.join(SPLITS)}")
    return SPLITS[value]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{where} has the caption {_shown(value)}; expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as err:
        raise RequestError(f"{where} has the caption {_shown(value)}, which is not valid Unicode") from err
    return value


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
