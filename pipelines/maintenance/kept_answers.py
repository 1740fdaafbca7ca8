"""Kept answers of endpoints (``answers/``), as the store's maintenance sees them: covered, purged, broken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.pipelines.endpoints.answer_parts import (
    READERS,
    BrokenPart,
    all_parts,
    prompt_of,
    read_part,
    renamed,
    write_part,
)
from captionbeam.pipelines.maintenance.stored_files import remove
from captionbeam.schemas.errors import StoreError
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.storage import files

Image = tuple[str, str | None]  # id and version


class PurgedParts(NamedTuple):
    """Result of purging kept answers: ids found, parts removed, and files that cannot be read."""

    ids: set[str]
    removed: list[str]
    unreadable: list[str]


def useless_parts(url: str, paths: Sequence[str], indexes: Mapping[str, Collection[str]]) -> list[str]:
    """Returns those of the parts ``paths`` that are broken, or all of whose images have a row.

    ``indexes``: by a prompt's fingerprint, the names of the index files of shards with a column of its answers.
    A part of a newer version is kept.
    """

    def images_in(path: str) -> set[Image] | None:
        try:
            return _images(read_part(url, path))
        except FileNotFoundError:
            return None
        except BrokenPart:
            return set()
        except StoreError:
            return None

    with ThreadPoolExecutor(READERS) as pool:
        found = zip(paths, pool.map(images_in, paths), strict=True)
        parts = {path: images for path, images in found if images is not None}
    wanted: defaultdict[str, set[Image]] = defaultdict(set)
    for path, images in parts.items():
        wanted[prompt_of(path)] |= images
    covered = {prompt: _with_rows(url, images, indexes.get(prompt, ())) for prompt, images in wanted.items()}
    return [path for path, images in parts.items() if images <= covered[prompt_of(path)]]


def _with_rows(url: str, images: set[Image], indexes: Collection[str]) -> set[Image]:
    """Returns those of ``images`` that have a row, not a failure, in one of the index files."""
    ids = pa.array(sorted({image_id for image_id, _ in images}), pa.string())

    def read(name: str) -> set[Image]:
        table = parquet.read_table(files.join(url, "index", name), ["image_id", "version", "failed"])
        wanted = pc.and_(pc.is_in(table.column("image_id"), ids), pc.invert(table.column("failed")))
        return _images(table.filter(wanted))

    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(read, sorted(indexes) if images else ())
        return images & {image for some in found for image in some}


def _images(table: pa.Table) -> set[Image]:
    return set(zip(*(table.column(name).to_pylist() for name in ("image_id", "version")), strict=True))


def purge_answers(url: str, ids: Collection[str]) -> PurgedParts:
    """Writes the parts that have answers about the images ``ids`` again, without them, and removes the old ones.

    If it is interrupted, the next purge finds the old ones again.
    """
    wanted, found, removed, unreadable = pa.array(sorted(ids), pa.string()), set[str](), [], []

    def look(path: str) -> set[str] | None:
        """Returns the ids that a part has; None if it cannot be read."""
        hidden = path.rsplit("/", 1)[-1].startswith(".")
        try:
            table = _temporary(url, path) if hidden else read_part(url, path)
        except FileNotFoundError:
            return set()
        except (StoreError, OSError, ValueError, KeyError):
            return None
        named = pc.is_in(table.column("image_id"), wanted)
        rest = table.filter(pc.invert(named))
        if rest.num_rows not in (0, table.num_rows) and not hidden:
            write_part(url, renamed(path), rest)
        return set(table.filter(named).column("image_id").to_pylist())

    paths = all_parts(url, hidden=True)
    with ThreadPoolExecutor(READERS) as pool:
        for path, held in zip(paths, pool.map(look, paths), strict=True):
            if held is None:
                unreadable.append(path)
            elif held:
                removed.append(path)
                found |= held
    remove(url, removed)
    return PurgedParts(found, removed, unreadable)


def _temporary(url: str, path: str) -> pa.Table:
    return parquet.read_table(files.join(url, path), ["image_id"])


def broken_parts(url: str) -> Iterator[str]:
    """Yields one sentence for each part that is no whole Parquet file of a part's columns."""

    def said(path: str) -> str | None:
        try:
            read_part(url, path)
        except FileNotFoundError:
            return None
        except StoreError as err:
            return str(err)
        return None

    paths = all_parts(url)
    with ThreadPoolExecutor(READERS) as pool:
        yield from filter(None, pool.map(said, paths))
