"""Checks one shard: its three files exist, are undamaged and agree with each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas.errors import StoreError
from captionbeam.schemas.fingerprint import sha256_file
from captionbeam.schemas.formats import arrow, parquet
from captionbeam.schemas.formats.datafile import open_data
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.reading import Dead
from captionbeam.schemas.store.rows import ManifestRow, files_of


@dataclass
class ShardFacts:
    """Problems of a shard; if there are none, also the image ids of its rows and failures as 64-bit hashes."""

    problems: list[str] = field(default_factory=list)
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    failed: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    fingerprint: str | None = None

    def has(self, row: int, failed: bool, image_id: str) -> bool:
        """Returns whether the row or failure exists and belongs to the image."""
        hashes = self.failed if failed else self.rows
        return 0 <= row < len(hashes) and hashes[row] == id_hash(image_id)

    def live(self, dead: Dead) -> np.ndarray:
        """Returns the hashes of the rows that are not dead."""
        return np.delete(self.rows, [row for row in dead.rows if row < len(self.rows)])


def id_hash(image_id: str) -> np.uint64:
    """Returns 64 bits of BLAKE2b of the id."""
    return np.uint64(int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "big"))


def check_shard(url: str, row: ManifestRow) -> ShardFacts:
    """Checks the shard of a manifest ``row``. Stops at damaged files."""
    facts = ShardFacts(list(_damaged(url, row)))
    if facts.problems:
        return facts
    try:
        index = parquet.read_table(files.join(url, "index", row["index"]))
        failures = parquet.read_table(files.join(url, "failures", row["failures"]))
        data, facts.fingerprint = _read_data(url, row)
    except (StoreError, OSError, KeyError, ValueError) as err:
        facts.problems.append(f"shard {row['shard']}: {' '.join(str(err).split())}")
        return facts
    facts.problems = [f"shard {row['shard']}: {problem}" for problem in _odd(row, index, failures, data)]
    if not facts.problems:
        ids = (_of(index, failed).column("image_id").to_pylist() for failed in (False, True))
        facts.rows, facts.failed = (np.array([id_hash(name) for name in each], np.uint64) for each in ids)
    return facts


def _damaged(url: str, row: ManifestRow) -> Iterator[str]:
    sizes = 0
    for name, expected in files_of(row):
        where = files.join(url, name)
        try:
            sha256 = sha256_file(where)
        except FileNotFoundError:
            yield f"{where} is missing"
            continue
        if sha256 != expected:
            yield f"{where} is damaged: its sha256 is {sha256}, not {expected}"
        fs, path = files.split(where)
        sizes += fs.size(path)
    if sizes != row["bytes"]:
        yield f"shard {row['shard']}: its files have {sizes} bytes; its manifest says {row['bytes']}"
    commit = layout.load_commit(url, row["shard"])
    if commit is not None and commit.manifest_row() != row:
        yield f"shard {row['shard']}: its commit and its manifest do not say the same"


def _read_data(url: str, row: ManifestRow) -> tuple[pa.Table, str | None]:
    """Returns the identity columns of all rows, and the file's fingerprint."""
    empty = pa.schema(arrow.IDENTITY).empty_table()
    if not row["data"]:
        return empty, None
    with closing(open_data(files.join(url, "data", row["data"]))) as data:
        groups = range(len(data.group_rows))
        tables = [pa.Table.from_batches([data.read(group, arrow.IDENTITY_NAMES)]) for group in groups]
        fingerprint = (data.schema.metadata or {}).get(arrow.FINGERPRINT_KEY, b"").decode()
    return pa.concat_tables([empty, *(table.replace_schema_metadata(None) for table in tables)]), fingerprint


def _odd(row: ManifestRow, index: pa.Table, failures: pa.Table, data: pa.Table) -> Iterator[str]:
    for name, table, expected in (("data", data, row["rows"]), ("failures", failures, row["failed"])):
        if table.num_rows != expected:
            yield f"{name} has {table.num_rows} rows; its manifest says {expected}"
    for name, table, failed in (("data", data, False), ("failures", failures, True)):
        listed = _of(index, failed)
        if listed.column("row").to_pylist() != list(range(table.num_rows)):
            yield f"the index does not list each row of {name} once, in order"
        elif (at := _first_difference(listed, table, arrow.IDENTITY_NAMES)) is not None:
            yield f"row {at} of {name} is {_said(table, at)}; the index says {_said(listed, at)}"
    if _of(index, True).column("code").to_pylist() != failures.column("code").to_pylist():
        yield "the index has other failure codes than failures"


def _of(index: pa.Table, failed: bool) -> pa.Table:
    """Returns the index rows of data or of failures, sorted by row."""
    return index.filter(pc.equal(index.column("failed"), failed)).sort_by("row")


def _first_difference(first: pa.Table, second: pa.Table, names: Sequence[str]) -> int | None:
    rows = zip(first.select(names).to_pylist(), second.select(names).to_pylist(), strict=True)
    return next((at for at, (one, other) in enumerate(rows) if one != other), None)


def _said(table: pa.Table, at: int) -> str:
    row = table.slice(at, 1).to_pylist()[0]
    return f"{row['image_id']!r} of version {row['version']!r}"
