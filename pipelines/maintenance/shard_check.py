"""Checks one shard: its files exist, are undamaged and agree with each other."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas.errors import StoreError, SystemicError
from captionbeam.schemas.fingerprint import sha256_file
from captionbeam.schemas.formats import arrow, kept, parquet
from captionbeam.schemas.formats.datafile import open_data
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.reading import Dead
from captionbeam.schemas.store.rows import ManifestRow, files_of, without_columns

NO_KINDS: Mapping[str | None, Collection[str]] = {}


@dataclass
class ShardFacts:
    """Problems of a shard; if there are none, also the image ids of its rows and failures as 64-bit hashes.

    ``bytes``: the size of all its files.
    """

    problems: list[str] = field(default_factory=list)
    bytes: int = 0
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


def check_shard(
    url: str, rows: Sequence[ManifestRow], kinds: Mapping[str | None, Collection[str]] = NO_KINDS
) -> ShardFacts:
    """Checks the shard of manifest ``rows``, which differ in its kept columns only. Stops at damaged files.

    ``kinds``: names and types of the kept columns in snapshots, as from ``schema_text``, by file of ``columns/``.
    """
    row, sizes = rows[0], dict[str, int]()
    facts = ShardFacts(list(_damaged(url, rows, sizes)), sum(sizes.values()))
    if facts.problems:
        return facts
    try:
        index = parquet.read_table(files.join(url, "index", row["index"]))
        failures = parquet.read_table(files.join(url, "failures", row["failures"]))
        data, facts.fingerprint = _read_data(url, row)
        columns = {one["columns"]: _read_columns(url, one["columns"]) for one in rows if one["columns"]}
    except (StoreError, OSError, KeyError, ValueError) as err:
        facts.problems.append(f"shard {row['shard']}: {' '.join(str(err).split())}")
        return facts
    odd = [*_odd(row, index, failures, data), *_odd_columns(index, columns), *_odd_kinds(columns, kinds)]
    facts.problems = [f"shard {row['shard']}: {problem}" for problem in odd]
    if not facts.problems:
        ids = (_of(index, failed).column("image_id").to_pylist() for failed in (False, True))
        facts.rows, facts.failed = (np.array([id_hash(name) for name in each], np.uint64) for each in ids)
    return facts


def _damaged(url: str, rows: Sequence[ManifestRow], sizes: dict[str, int]) -> Iterator[str]:
    """Yields damages, and puts the size in bytes of each file, by its path in the store, into ``sizes``."""
    for name, expected in dict.fromkeys(pair for row in rows for pair in files_of(row)):
        where = files.join(url, name)
        try:
            sha256 = sha256_file(where)
        except FileNotFoundError:
            yield f"{where} is missing"
            continue
        if sha256 != expected:
            yield f"{where} is damaged: its sha256 is {sha256}, not {expected}"
        fs, path = files.split(where)
        sizes[name] = fs.size(path)
    for row in rows:
        size = sum(sizes.get(name, 0) for name, _ in files_of(row))
        if size != row["bytes"]:
            yield f"shard {row['shard']}: its files have {size} bytes; its manifest says {row['bytes']}"
    commit = layout.load_commit(url, rows[0]["shard"])
    if commit is not None and without_columns(commit.manifest_row()) != without_columns(rows[0]):
        yield f"shard {rows[0]['shard']}: its commit and its manifest do not say the same"


def _read_columns(url: str, name: str) -> pa.Table:
    return parquet.read_table(files.join(url, "columns", name))


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


def _odd_columns(index: pa.Table, columns: Mapping[str, pa.Table]) -> Iterator[str]:
    listed = pa.concat_tables([_of(index, False), _of(index, True)])
    for name, table in columns.items():
        if table.num_rows != listed.num_rows:
            yield f"columns/{name} has {table.num_rows} rows; the index has {listed.num_rows}"
        elif (at := _first_difference(listed, table, ["image_id", "failed"])) is not None:
            said = table.column("image_id")[at].as_py()
            yield f"row {at} of columns/{name} is {said!r}; the index says {_said(listed, at)}"


def _odd_kinds(columns: Mapping[str, pa.Table], kinds: Mapping[str | None, Collection[str]]) -> Iterator[str]:
    for name, table in columns.items():
        for text in sorted(kinds.get(name, ())):
            try:
                kept.values_in(table, kept.without_nulls(kept.schema_of(text)))
            except SystemicError as err:
                yield f"columns/{name} has a value that is not of its column's type in a snapshot: {err.__cause__}"


def _of(index: pa.Table, failed: bool) -> pa.Table:
    """Returns the index rows of data or of failures, sorted by row."""
    return index.filter(pc.equal(index.column("failed"), failed)).sort_by("row")


def _first_difference(first: pa.Table, second: pa.Table, names: Sequence[str]) -> int | None:
    rows = zip(first.select(names).to_pylist(), second.select(names).to_pylist(), strict=True)
    return next((at for at, (one, other) in enumerate(rows) if one != other), None)


def _said(table: pa.Table, at: int) -> str:
    row = table.slice(at, 1).to_pylist()[0]
    return f"{row['image_id']!r} of version {row['version']!r}"
