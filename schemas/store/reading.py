"""Reads one snapshot of a store, by row or by row group.

>>> from captionbeam.schemas import Store
>>> store = Store.open("features")                             # doctest: +SKIP
>>> for batch in store.scan(["image_id", "grid"]):             # doctest: +SKIP
...     grids = batch.column("grid").to_numpy_ndarray()        # float16 [n, H, W, C]
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas.counts import counted
from captionbeam.schemas.errors import RequestError, StoreError
from captionbeam.schemas.formats import arrow, kept, parquet
from captionbeam.schemas.formats.datafile import DataFile, open_data
from captionbeam.schemas.formats.int8 import read_names, scale_names, with_tensors
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout, tags
from captionbeam.schemas.store.rows import DeleteRow, ManifestRow, manifest_table, read_deletes


class RowGroup(NamedTuple):
    """One row group of one data file: the unit that training reads. ``dead`` are rows, within the group, to skip.

    ``start`` is the first row's number in the file.
    """

    url: str
    group: int
    start: int
    rows: int
    dead: tuple[int, ...]
    shard: str = ""

    @property
    def live(self) -> int:
        """Number of rows that readers get."""
        return self.rows - len(self.dead)


class Dead(NamedTuple):
    """Superseded and deleted rows of one shard."""

    rows: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()


class Store:
    """One snapshot of a store of features or captions, on the local disk or any fsspec URL."""

    def __init__(self, url: str, snapshot: layout.Snapshot) -> None:
        self.url, self.snapshot = url, snapshot

    @classmethod
    def open(cls, url: str | os.PathLike[str], snapshot: int | str | None = None) -> Store:
        """Opens the newest snapshot of the store at ``url``, or the one with a number or tag (``STORE@prod``).

        Raises StoreError if it does not exist, and RequestError if both ``url`` and ``snapshot`` name one.
        """
        url, selector = tags.split_selector(files.absolute(url))
        if selector is not None and snapshot is not None:
            raise RequestError(
                f"{url}@{selector} and snapshot {snapshot} name one each; expected one of them"
            )
        wanted = selector if snapshot is None else snapshot
        if wanted is not None:
            return cls(url, layout.load_snapshot(url, tags.snapshot_number(url, wanted)))
        newest = layout.newest_snapshot(url)
        if newest is None:
            raise StoreError(f"{url} has no published snapshot; expected a store that a finished job wrote")
        return cls(url, newest)

    def __repr__(self) -> str:
        rows, failed = counted(self.totals["rows"], "row"), counted(self.totals["failed"], "failure")
        return f"<Store {self.url}, snapshot {self.snapshot_id}: {rows}, {failed}>"

    @property
    def snapshot_id(self) -> int:
        return self.snapshot.id

    @property
    def kind(self) -> str:
        """``features`` or ``captions``."""
        return self.snapshot.kind

    @property
    def fingerprint(self) -> str:
        """Hash of all inputs, except the image's bytes, that determine a row's value."""
        return self.snapshot.fingerprint

    @property
    def spec(self) -> Mapping[str, Any]:
        """The specification of the encoder or captioner, of which the fingerprint is the hash."""
        return self.snapshot.spec

    @property
    def column(self) -> str:
        """``grid``, ``pooled``, ``captions``, or the first of ``columns``."""
        return self.snapshot.column

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns of values, sorted: one for each prompt, or ``column`` alone."""
        return layout.value_columns(self.spec, self.column)

    @cached_property
    def kept(self) -> pa.Schema:
        """Names and types of the columns kept from the input, as readers get them, then those that image files say of
        themselves; empty if there are none.

        One from the input that has the name of a column of the store's own is called ``input_NAME``.
        """
        return pa.schema([*(field.with_name(self._shown[field.name]) for field in self._kept), *self._exif])

    @property
    def input_columns(self) -> pa.Schema:
        """Names and types of the kept columns, with the names that they have in the input.

        A column without any value so far has the type null.
        """
        return kept.schema_of(self.snapshot.kept)

    @cached_property
    def _kept(self) -> pa.Schema:
        return kept.without_nulls(self.input_columns)

    @cached_property
    def _exif(self) -> pa.Schema:
        return kept.schema_of(self.snapshot.exif)

    @cached_property
    def _shown(self) -> Mapping[str, str]:
        own = [*arrow.IDENTITY_NAMES, *arrow.FAILURES.names, *self.columns, *self._exif.names]
        return kept.shown_names(self._kept, [*own, *(name + arrow.SCALE for name in self.columns)])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row of a features store: ``(H, W, C)`` or ``(C,)``; ``()`` for a captions store."""
        return self.snapshot.shape

    @property
    def totals(self) -> Mapping[str, int]:
        """Numbers of live rows, failures, shards and bytes of this snapshot."""
        return self.snapshot.totals

    @property
    def models_url(self) -> str:
        """URL of the folder with the weights and bundles that made the rows."""
        return files.join(self.url, "models")

    @cached_property
    def manifest(self) -> pa.Table:
        """One row per shard (``captionbeam.schemas.formats.arrow.MANIFEST``)."""
        return manifest_table(self.url, self.snapshot.manifests)

    @cached_property
    def shards(self) -> list[ManifestRow]:
        """The rows of ``manifest``."""
        return cast(list[ManifestRow], self.manifest.to_pylist())

    @cached_property
    def dead(self) -> Mapping[str, Dead]:
        """Superseded and deleted rows, by shard."""
        return dead_rows(read_deletes(self.url, self.snapshot.deletes))

    def dead_in(self, shard: str) -> Dead:
        """Returns the superseded and deleted rows of one shard."""
        return self.dead.get(shard, Dead())

    def count(self) -> int:
        """Returns the number of live rows."""
        return self.snapshot.totals["rows"]

    def index(self) -> Iterator[tuple[str, pa.Table]]:
        """Yields each shard's id and its live index rows, both data and failures (``formats.arrow.INDEX``)."""
        shards = [shard["shard"] for shard in self.shards]
        with ThreadPoolExecutor(8) as pool:
            yield from zip(shards, pool.map(self.shard_index, shards), strict=True)

    def shard_index(self, shard: str) -> pa.Table:
        """Returns the live index rows of one shard."""
        return live_index(self._index_table(shard), self.dead_in(shard))

    def shard_index_with_hashes(self, shard: str) -> pa.Table:
        """Returns ``shard_index`` with a further column, ``columns_hash`` of the rows' kept columns."""
        table, name = self._index_table(shard), self._files[shard][2]
        hashes: Any = pa.array([""] * table.num_rows, pa.string())
        if name is not None:
            hashes = parquet.read_table(files.join(self.url, "columns", name), [kept.HASH]).column(0)
        return live_index(table.append_column(kept.HASH, hashes), self.dead_in(shard))

    def _index_table(self, shard: str) -> pa.Table:
        return parquet.read_table(files.join(self.url, "index", self._files[shard][0]))

    def data_url(self, shard: str) -> str:
        """Returns the URL of one shard's data file."""
        return files.join(self.url, "data", self._files[shard][1])

    @cached_property
    def _files(self) -> dict[str, tuple[str, str, str | None]]:
        return {shard["shard"]: (shard["index"], shard["data"], shard["columns"]) for shard in self.shards}

    def ids(self) -> list[str]:
        """Returns the ids of the live images. Reads the index only."""
        found: list[str] = []
        for _, table in self.index():
            found += table.filter(pc.invert(table.column("failed"))).column("image_id").to_pylist()
        return found

    def failures(self) -> pa.Table:
        """Returns failed images (``formats.arrow.FAILURES``, then the kept columns), except those that have since
        succeeded or been deleted.
        """
        tables = [pa.schema([*arrow.FAILURES, *self.kept]).empty_table()]
        for shard in self.shards:
            if shard["failed"]:
                table = parquet.read_table(files.join(self.url, "failures", shard["failures"]))
                columns = self._kept_columns(shard["shard"], shard["rows"], shard["failed"])
                for name, values in columns.items():
                    table = table.append_column(name, values)
                dead = self.dead_in(shard["shard"]).failed
                tables.append(table.take(_alive(table.num_rows, dead)).replace_schema_metadata(None))
        return pa.concat_tables(tables)

    def _kept_columns(self, shard: str, start: int, count: int) -> dict[str, pa.Array]:
        """Returns the kept columns of ``count`` index rows of a shard, from row ``start``, by the readers' names."""
        name = self._files[shard][2]
        if not len(self.kept):
            return {}
        if name is None:
            return {field.name: pa.nulls(count, field.type) for field in self.kept}
        table = _kept_table(files.join(self.url, "columns", name)).slice(start, count)
        values, exif = kept.values_in(table, self._kept), kept.exif_in(table, self._exif)
        return dict(zip(self.kept.names, [*values.flatten(), *exif.flatten()], strict=True))

    def scan(
        self, columns: Sequence[str] | None = None, ids: Iterable[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yields live rows as Arrow record batches, one per row group.

        Grids are ``fixed_shape_tensor`` of float16, also if stored as int8. ``columns`` selects columns, ``ids``
        images. The columns kept from the input come last. Raises RequestError for an unknown column.
        """
        for group, wanted in self._wanted(ids):
            keep = None if wanted is None else frozenset((wanted - group.start).tolist())
            yield self._read(group, columns, keep)

    def _wanted(self, ids: Iterable[str] | None) -> Iterator[tuple[RowGroup, np.ndarray | None]]:
        if ids is None:
            yield from ((group, None) for group in self.row_groups() if group.live)
            return
        rows = self._rows_of(set(ids))
        for group in self.row_groups(only=set(rows)):
            wanted = rows[group.url]
            inside = wanted[(wanted >= group.start) & (wanted < group.start + group.rows)]
            if len(inside):
                yield group, inside

    def _rows_of(self, ids: set[str]) -> dict[str, np.ndarray]:
        wanted, found = pa.array(sorted(ids), pa.string()), {}
        for shard, table in self.index():
            hit = pc.and_(pc.is_in(table.column("image_id"), wanted), pc.invert(table.column("failed")))
            if rows := table.filter(hit).column("row").to_pylist():
                found[self.data_url(shard)] = np.array(rows)
        return found

    def row_groups(self, only: set[str] | None = None) -> list[RowGroup]:
        """Returns all row groups of all data files, in the manifest's order; ``only`` selects data files."""
        named = [(row["shard"], self.data_url(row["shard"])) for row in self.shards if row["rows"]]
        shards = [(shard, url) for shard, url in named if only is None or url in only]
        with ThreadPoolExecutor(8) as pool:
            sizes = pool.map(_group_rows, [url for _, url in shards])
            return [
                g
                for (shard, url), rows in zip(shards, sizes, strict=True)
                for g in self._groups(shard, url, rows)
            ]

    def _groups(self, shard: str, url: str, sizes: Sequence[int]) -> Iterator[RowGroup]:
        dead, start = self.dead_in(shard).rows, 0
        for group, rows in enumerate(sizes):
            inside = tuple(sorted(row - start for row in dead if start <= row < start + rows))
            yield RowGroup(url, group, start, rows, inside, shard)
            start += rows

    def read_row_group(self, group: RowGroup, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Returns the live rows of one row group. Raises RequestError for an unknown column."""
        return self._read(group, columns, None)

    def _read(
        self, group: RowGroup, columns: Sequence[str] | None, keep: frozenset[int] | None
    ) -> pa.RecordBatch:
        with closing(open_data(group.url)) as data:
            names = checked_columns(data, columns, self.kept.names)
            own = [name for name in names if name not in self.kept.names]
            batch = data.read(group.group, read_names(data.schema, own))
        if own != names:
            batch = self._with_kept(batch, group, names)
        rows = [row for row in _alive(group.rows, group.dead).tolist() if keep is None or row in keep]
        return with_tensors(batch if len(rows) == group.rows else batch.take(pa.array(rows, pa.int64())))

    def _with_kept(self, batch: pa.RecordBatch, group: RowGroup, names: Sequence[str]) -> pa.RecordBatch:
        """Returns a row group's batch with the kept columns among ``names``, in the order of ``names``."""
        columns = self._kept_columns(group.shard, group.start, group.rows)
        fields = {field.name: field for field in (*batch.schema, *self.kept)}
        arrays = {**dict(zip(batch.schema.names, batch.columns, strict=True)), **columns}
        ordered = [*names, *(name for name in batch.schema.names if name not in names)]  # scales last
        schema = pa.schema([fields[name] for name in ordered], batch.schema.metadata)
        return pa.RecordBatch.from_arrays([arrays[name] for name in ordered], schema=schema)


def dead_rows(deletes: Iterable[DeleteRow]) -> dict[str, Dead]:
    """Returns the rows of a table of deletes, grouped by shard."""
    rows: dict[str, set[int]] = defaultdict(set)
    failed: dict[str, set[int]] = defaultdict(set)
    for row in deletes:
        (failed if row["failed"] else rows)[row["shard"]].add(row["row"])
    return {shard: Dead(frozenset(rows[shard]), frozenset(failed[shard])) for shard in {*rows, *failed}}


def live_index(table: pa.Table, dead: Dead) -> pa.Table:
    """Returns the live rows of an index, both data and failures."""
    if not dead.rows and not dead.failed:
        return table
    pairs = zip(table.column("row").to_pylist(), table.column("failed").to_pylist(), strict=True)
    return table.filter(
        pa.array([row not in (dead.failed if failed else dead.rows) for row, failed in pairs])
    )


def checked_columns(
    data: DataFile, columns: Sequence[str] | None, kept_names: Sequence[str] = ()
) -> list[str]:
    """Returns ``columns``, each once, by default all except scales. Raises RequestError for an unknown column."""
    scales = scale_names(data.schema)
    names = [name for name in data.schema.names if name not in scales] + list(kept_names)
    for column in columns or ():
        if column not in names:
            raise RequestError(f"no column {column!r} in this store; expected some of {', '.join(names)}")
    return names if columns is None else list(dict.fromkeys(columns))


@lru_cache(maxsize=8)
def _kept_table(url: str) -> pa.Table:
    """Returns a file of ``columns/``, which the row groups of a shard read one after another."""
    try:
        return parquet.read_table(url)
    except FileNotFoundError as err:
        raise StoreError(
            f"{url} is not there; expected all files of the snapshot (captionbeam store verify says what is wrong)"
        ) from err


def _group_rows(url: str) -> list[int]:
    with closing(open_data(url)) as data:
        return data.group_rows


def _alive(rows: int, dead: Iterable[int]) -> np.ndarray:
    alive = np.ones(rows, dtype=bool)
    alive[list(dead)] = False
    return np.flatnonzero(alive)
