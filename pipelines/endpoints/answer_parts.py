"""Files of kept answers: ``answers/<prompt's fingerprint>/<bucket>/<shard>-<run>-<attempt>-<n>.parquet``.

A part has the answers of one attempt at one shard to one prompt: ``image_id``, ``version``, ``content``
(``Prompt.key``: the SHA-256 of the image's bytes, and of the values that the prompt uses) and ``answers`` (of the
prompt's column type). It is written once, as a whole, under a name that
nobody else uses.

The bucket is a hash of the shard, so that one write makes one file for each prompt, and a later attempt at the shard
finds all its parts by listing one folder. A bucket by image would spread each write over as many files as it has
images. Buckets keep these listings short: each has 1/256 of the store's parts. ``run`` is a hash of the run's id, so
that a process can tell what runs before its own left, without reading what the other processes write.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captionbeam.schemas.errors import StoreError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.storage import files

FOLDER = "answers"
IDENTITY = (
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("version", pa.string()),
    pa.field("content", pa.string(), nullable=False),
)
NAMES = (*(field.name for field in IDENTITY), "answers")
READERS = 16


class BrokenPart(StoreError):
    """A file is no whole part."""


def attempt_name(shard: str, run_id: str) -> str:
    """Returns a new name of an attempt at ``shard``, with which its parts' names start."""
    return f"{shard}-{_run_token(run_id)}-{uuid.uuid4().hex[:12]}"


def renamed(path: str) -> str:
    """Returns a new path for the rows of the part at ``path``, which belongs to the same shard and run."""
    attempt, number = path.removesuffix(".parquet").rsplit("-", 1)
    return f"{attempt.rsplit('-', 1)[0]}-{uuid.uuid4().hex[:12]}-{number}.parquet"


def part_path(prompt: str, attempt: str, number: int) -> str:
    """Returns a part's path in the store. ``prompt``: the prompt's fingerprint."""
    return f"{_bucket(prompt, attempt.rsplit('-', 2)[0])}/{attempt}-{number:06d}.parquet"


def prompt_of(path: str) -> str:
    """Returns the fingerprint of the prompt that the part at ``path`` answers."""
    return path.split("/")[1]


def shard_parts(url: str, prompt: str, shard: str) -> list[str]:
    """Returns the paths of the parts that attempts at ``shard`` left, sorted by name."""
    folder = _bucket(prompt, shard)
    names = files.names(files.join(url, folder))
    return [f"{folder}/{name}" for name in names if name.rsplit("-", 3)[0] == shard]


def left_parts(url: str, prompt: str, run_id: str) -> list[str]:
    """Returns the paths of the parts that other runs than ``run_id`` left, sorted by name."""
    token = _run_token(run_id)
    found = [path for path in all_parts(url, prompt) if path.rsplit("-", 3)[1:2] != [token]]
    return sorted(found, key=lambda path: path.rsplit("/", 1)[-1])


def all_parts(url: str, prompt: str = "", hidden: bool = False) -> list[str]:
    """Returns the paths of all parts in the store at ``url``, sorted. ``prompt``: only of the prompt.

    ``hidden``: also temporary files of writers that run or were killed.
    """
    folder = f"{FOLDER}/{prompt}".rstrip("/")
    found = files.find(files.join(url, folder))
    return [f"{folder}/{name}" for name in found if hidden or not name.rsplit("/", 1)[-1].startswith(".")]


def part_schema(field: pa.Field) -> pa.Schema:
    """Returns the columns of parts, by the prompt's output column ``field``."""
    return pa.schema([*IDENTITY, field.with_name("answers")])


def write_part(url: str, path: str, table: pa.Table) -> None:
    """Writes a part to ``path`` in the store at ``url``. Raises OSError.

    No commit names a part with its SHA-256, so its pages have checksums.
    """
    metadata = arrow.stamp(table.schema, FOLDER, prompt_of(path)).metadata
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata), sink, compression="zstd", write_page_checksum=True
    )
    files.write_atomic(files.join(url, path), sink.getvalue().to_pybytes())


def read_part(url: str, path: str) -> pa.Table:
    """Returns the rows of the part at ``path`` in the store at ``url``.

    Raises FileNotFoundError, another OSError if the storage fails, BrokenPart if the file is no whole part, and
    StoreError if a newer version wrote it.
    """
    where = files.join(url, path)
    data = files.read_bytes(where)
    try:
        opened = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        table = opened.read(use_threads=False)
        names = tuple(table.column_names)
    except (pa.ArrowException, OSError, ValueError) as err:
        said = " ".join(str(err).split()) or type(err).__name__
        raise BrokenPart(f"{where} cannot be read: {said}; expected a whole Parquet file") from err
    metadata = table.schema.metadata or {}
    arrow.check_version(metadata, where)
    if names != NAMES:
        raise BrokenPart(f"{where} has the columns {', '.join(names)}; expected {', '.join(NAMES)}")
    written = metadata.get(arrow.FINGERPRINT_KEY, b"").decode(errors="replace")
    if written != prompt_of(path):
        raise BrokenPart(f"{where} has answers to prompt {written!r}; expected {prompt_of(path)!r}")
    return table


def table_of(rows: Iterable[tuple[str, str | None, str, Any]], field: pa.Field) -> pa.Table:
    """Returns rows of (image_id, version, content, answers) as a part's table."""
    schema = part_schema(field)
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in schema]
    return pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema
    )


def _bucket(prompt: str, shard: str) -> str:
    return f"{FOLDER}/{prompt}/{sha256_bytes(shard.encode())[:2]}"


def _run_token(run_id: str) -> str:
    return sha256_bytes(run_id.encode())[:8]
