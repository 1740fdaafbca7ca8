"""Tiny caption files of every kind."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def coco(captions: Mapping[str, Sequence[str]], first_id: int = 0) -> dict[str, Any]:
    """COCO's form of ``{file name: captions}``, images numbered from ``first_id``."""
    ids = {name: number for number, name in enumerate(captions, start=first_id)}
    pairs = [(ids[name], caption) for name, several in captions.items() for caption in several]
    return {
        "images": [{"id": number, "file_name": name} for name, number in ids.items()],
        "annotations": [
            {"id": number, "image_id": image_id, "caption": caption}
            for number, (image_id, caption) in enumerate(pairs)
        ],
    }


def karpathy(rows: Sequence[tuple[str, str, Sequence[str]]], **fields: Any) -> dict[str, Any]:
    """Karpathy's form of ``(file name, split, captions)``; ``fields`` are added to every image."""
    images = [
        {"filename": name, "split": split, "imgid": number, **fields}
        | {"sentences": [{"raw": caption, "tokens": caption.split()} for caption in captions]}
        for number, (name, split, captions) in enumerate(rows)
    ]
    return {"dataset": "tiny", "images": images}


def write_json(path: Path, content: Any) -> str:
    """``content`` as JSON at ``path``; its path as text."""
    path.write_text(json.dumps(content))
    return str(path)


def write_lines(path: Path, rows: Sequence[Any]) -> str:
    """One JSON value a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """``rows`` as a Parquet file."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def write_zip(path: Path, members: Mapping[str, Any]) -> str:
    """A zip of JSON members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, json.dumps(content))
    return str(path)
