"""Copies rows instead of computing them, for images whose content equals that of a row that they replace.

This covers files that were touched, copied or uploaded again. This module uses neither Beam nor torch.
"""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.workers.exif import exif_schema
from captionbeam.pipelines.workers.output import Done
from captionbeam.schemas.errors import StoreError
from captionbeam.schemas.formats import arrow, parquet
from captionbeam.schemas.formats.datafile import open_data, read_rows
from captionbeam.schemas.formats.kept import TEXT, exif_in, used_values
from captionbeam.schemas.records import ImageRef, addresses_in, parse_address
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.rows import manifest_table

READERS, FILES = 8, ["shard", "index", "data", "columns"]
Place = tuple[str, int]  # a data file's URL, and a row in it


class Replaced(NamedTuple):
    """A row that is replaced, by the image ``image_id``.

    ``used``: its values in columns that prompts use, as text. ``exif``: what the run keeps of its image file.
    """

    image_id: str
    content: str
    used: str
    place: Place
    exif: Mapping[str, Any]


class Reuse:
    """The rows that one shard's images replace, by content, and those to copy.

    Feature rows are matched by content alone; caption rows also by image, as random draws for captions depend on the
    image's id, and by the values that prompts use. Several threads may share one.
    """

    def __init__(self, run: Run, refs: Sequence[ImageRef]) -> None:
        self._run, self._lock = run, threading.Lock()
        self._used_columns = run.used_columns
        base = run.base if run.previous is None else None  # processors copy from ``previous``
        self._places = {_key(run, *row[:3]): row.place for row in replaced_rows(run, refs, base)}
        self._taken: defaultdict[str, list[tuple[int, Done]]] = defaultdict(list)
        self._there: dict[str, bool] = {}

    def take(self, refs: Sequence[ImageRef], content: str, exif: Mapping[str, Any]) -> bool:
        """Returns whether there is a row to copy for the images ``refs`` with this ``content``, and notes it."""
        found = [place for ref in refs if (place := self._places.get(self._key_of(ref, content)))]
        if not found or not self._is_there(found[0][0]):
            return False
        url, row = found[0]
        with self._lock:
            self._taken[url] += [(row, Done(ref, content, exif)) for ref in refs]
        return True

    def rows(self, schema: pa.Schema) -> Iterator[tuple[list[Done], dict[str, pa.Array]]]:
        """Yields the rows to copy, by row group: images, and the columns of ``schema`` as stored."""
        for url, taken in sorted(self._taken.items()):
            by_row: defaultdict[int, list[Done]] = defaultdict(list)
            for row, done in taken:
                by_row[row].append(done)
            with closing(open_data(url)) as data:
                for numbers, batch in read_rows(data, sorted(by_row), schema.names):
                    images = [done for number in numbers for done in by_row[number]]
                    at = [place for place, number in enumerate(numbers) for _ in by_row[number]]
                    yield images, dict(zip(schema.names, batch.take(pa.array(at)).columns, strict=True))

    def _key_of(self, ref: ImageRef, content: str) -> Any:
        return _key(self._run, ref.image_id, content, used_values(ref.columns, self._used_columns))

    def _is_there(self, url: str) -> bool:
        """Returns whether a data file still exists. Rows are computed again if it was compacted and vacuumed."""
        with self._lock:
            if url not in self._there:
                self._there[url] = files.exists(url)
            return self._there[url]


def _key(run: Run, image_id: str, content: str, used: str) -> Any:
    return content if run.kind == "features" else (image_id, content, used)


def replaced_rows(run: Run, refs: Sequence[ImageRef], base: int | None) -> list[Replaced]:
    """Returns the rows of snapshot ``base`` that ``refs`` replace, with these images' ids. Reads each index once."""
    rows: defaultdict[str, dict[int, str]] = defaultdict(dict)  # the image that replaces each row
    for ref in refs:
        for place in addresses_in(ref.replaces):
            shard, row, failed = parse_address(place)
            if not failed:
                rows[shard][row] = ref.image_id
    if not rows:
        return []

    def read(files_of: Mapping[str, Any]) -> list[Replaced]:
        url, replacing = files.join(run.url, "data", files_of["data"]), rows[files_of["shard"]]
        found = _contents(run, files_of["index"], files_of["columns"], list(replacing))
        return [
            Replaced(replacing[row], content, used, (url, row), exif) for row, content, used, exif in found
        ]

    with ThreadPoolExecutor(READERS) as pool:
        return [one for part in pool.map(read, _files(run, base, sorted(rows))) for one in part]


def _contents(
    run: Run, index: str, columns: str | None, rows: Sequence[int]
) -> Iterator[tuple[int, str, str, Mapping[str, Any]]]:
    """Yields number, content, used values and exif of ``rows``; none if the index has no contents or is gone."""
    try:
        table = parquet.read_table(files.join(run.url, "index", index), ["row", "failed", "content"])
        texts, exif = [""] * table.num_rows, [dict[str, Any]()] * table.num_rows
        if columns is not None and (run.used_columns or run.exif):
            kept = parquet.read_table(files.join(run.url, "columns", columns), None if run.exif else [TEXT])
            texts = kept.column(TEXT).to_pylist()
            exif = exif_in(kept, exif_schema(run.exif)).to_pylist()
    except FileNotFoundError:
        return
    table = table.append_column("place", pa.array(range(len(texts)), pa.int64()))
    wanted = pc.and_(pc.is_in(table.column("row"), pa.array(rows)), pc.invert(table.column("failed")))
    for row in table.filter(pc.and_(wanted, pc.is_valid(table.column("content")))).to_pylist():
        at = row["place"]
        yield row["row"], row["content"], used_values(texts[at], run.used_columns), exif[at]


def _files(run: Run, base: int | None, shards: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the given shards in the snapshot ``base`` and the run's adopted ones, with the names of their files."""
    table = _base_files(run.url, base, run.folder)
    kept = table.filter(pc.is_in(table.column("shard"), pa.array(shards)))
    found: list[dict[str, Any]] = kept.to_pylist()
    return found


@functools.lru_cache(maxsize=2)
def _base_files(url: str, base: int | None, folder: str) -> pa.Table:
    """Returns the columns FILES of a run's adopted shards, and of the snapshot ``base`` if it is still there."""
    try:
        manifests = layout.load_snapshot(url, base).manifests if base is not None else ()
        published = manifest_table(url, manifests).select(FILES)
    except (StoreError, FileNotFoundError):
        published = arrow.MANIFEST.empty_table().select(FILES)
    unpublished = manifest_table(folder, ["base.parquet"]).select(FILES)
    return pa.concat_tables([published, unpublished])
