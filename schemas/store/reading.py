"""Reading a store: one snapshot of it, row by row or row group by row group.

>>> from captionbeam.schemas import Store
>>> store = Store.open("features")                              # doctest: +SKIP
>>> for batch in store.scan(["image_id", "grid"]):              # doctest: +SKIP
...     grids = batch.column("grid").to_numpy_ndarray()         # float16 [n, H, W, C]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas.errors import RequestError, StoreError
from captionbeam.schemas.formats import arrow, parquet
from captionbeam.schemas.formats.datafile import DataFile, open_data
from captionbeam.schemas.formats.int8 import read_names, scale_names, with_tensors
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout, tags


class RowGroup(NamedTuple):
    """One row group of one data file: the unit of a training run's reads."""

    url: str
    group: int
    start: int
    rows: int
    dead: tuple[int, ...]

    @property
    def live(self) -> int:
        """Rows that a reader gets."""
        return self.rows - len(self.dead)


class Dead(NamedTuple):
    """Rows of one shard that are no longer live."""

    rows: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()


class Store:
    """One snapshot of a store of features or captions, on a local disk or any fsspec URL."""

    def __init__(self, url: str, snapshot: layout.Snapshot) -> None:
        self.url, self.snapshot = url, snapshot

    @classmethod
    def open(cls, url: str, snapshot: int | str | None = None) -> Store:
        """The newest snapshot of the store at ``url``, or the one with that number, or tag: ``STORE@prod``.

        Raises StoreError, RequestError where both ``url`` and ``snapshot`` name one.
        """
        url, selector = tags.split_selector(files.absolute(url))
        if selector is not None and snapshot is not None:
            raise RequestError(
                f"{url}@{selector} and snapshot {snapshot} name one each; expected one of them"
            )
        wanted = selector if snapshot is None else snapshot
        if wanted is not None:
            return cls(url, layout.load_snapshot(url, _number(url, wanted)))
        newest = layout.newest_snapshot(url)
        if newest is None:
            raise StoreError(f"{url} has no published snapshot; expected a store that a finished job wrote")
        return cls(url, newest)

    @property
    def snapshot_id(self) -> int:
        return self.snapshot.id

    @property
    def kind(self) -> str:
        """``features`` or ``captions``."""
        return self.snapshot.kind

    @property
    def fingerprint(self) -> str:
        """What decides a row's value besides the image's bytes."""
        return self.snapshot.fingerprint

    @property
    def spec(self) -> Mapping[str, Any]:
        """The encoder's, or captioner's, specification that the fingerprint is the hash of."""
        return self.snapshot.spec

    @property
    def column(self) -> str:
        """``grid``, ``pooled`` or ``captions``."""
        return self.snapshot.column

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row of a features store: ``(H, W, C)`` or ``(C,)``; ``()`` of a captions store."""
        return self.snapshot.shape

    @property
    def totals(self) -> Mapping[str, int]:
        """Live rows, failures, shards and bytes of this snapshot."""
        return self.snapshot.totals

    @property
    def models_url(self) -> str:
        """The folder of weights and bundles that made the rows."""
        return files.join(self.url, "models")

    @cached_property
    def manifest(self) -> pa.Table:
        """One row a shard (``captionbeam.schemas.formats.arrow.MANIFEST``)."""
        return layout.read_tables(self.url, self.snapshot.manifests, arrow.MANIFEST)

    @cached_property
    def dead(self) -> Mapping[str, Dead]:
        """Superseded and deleted rows, by shard."""
        return dead_rows(layout.read_tables(self.url, self.snapshot.deletes, arrow.DELETES))

    def count(self) -> int:
        """Live rows."""
        return self.snapshot.totals["rows"]

    def index(self) -> Iterator[tuple[str, pa.Table]]:
        """For each shard its id and its live index rows, data and failures (``formats.arrow.INDEX``)."""
        shards = self.manifest.column("shard").to_pylist()
        with ThreadPoolExecutor(8) as pool:
            yield from zip(shards, pool.map(self.shard_index, shards), strict=True)

    def shard_index(self, shard: str) -> pa.Table:
        """The live index rows of one shard."""
        name = self._files[shard][0]
        table = parquet.read_table(files.join(self.url, "index", name))
        return live_index(table, self.dead.get(shard, Dead()))

    def data_url(self, shard: str) -> str:
        """Where one shard's data file is."""
        return files.join(self.url, "data", self._files[shard][1])

    @cached_property
    def _files(self) -> dict[str, tuple[str, str]]:
        columns = (self.manifest.column(name).to_pylist() for name in ("shard", "index", "data"))
        return {shard: (index, data) for shard, index, data in zip(*columns, strict=True)}

    def ids(self) -> list[str]:
        """The live images' ids, from the index alone."""
        found: list[str] = []
        for _, table in self.index():
            found += table.filter(pc.invert(table.column("failed"))).column("image_id").to_pylist()
        return found

    def failures(self) -> pa.Table:
        """Images that could not be processed (``formats.arrow.FAILURES``), without those done since."""
        tables = [arrow.FAILURES.empty_table()]
        for shard in self.manifest.to_pylist():
            if shard["failed"]:
                table = parquet.read_table(files.join(self.url, "failures", shard["failures"]))
                dead = self.dead.get(shard["shard"], Dead()).failed
                tables.append(table.take(_alive(table.num_rows, dead)).replace_schema_metadata(None))
        return pa.concat_tables(tables)

    def scan(
        self, columns: Sequence[str] | None = None, ids: Iterable[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Live rows as Arrow record batches, a row group each, grids as ``fixed_shape_tensor`` of float16, which
        int8 becomes.

        ``columns`` picks columns, ``ids`` images. Raises RequestError for a column that is not there.
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
        """Every row group of every data file, in the manifest's order; ``only`` names data files."""
        table = self.manifest.filter(pc.greater(self.manifest.column("rows"), 0))
        shards = [(shard, self.data_url(shard)) for shard in table.column("shard").to_pylist()]
        shards = [(shard, url) for shard, url in shards if only is None or url in only]
        with ThreadPoolExecutor(8) as pool:
            sizes = pool.map(_group_rows, [url for _, url in shards])
            return [
                g
                for (shard, url), rows in zip(shards, sizes, strict=True)
                for g in self._groups(shard, url, rows)
            ]

    def _groups(self, shard: str, url: str, sizes: Sequence[int]) -> Iterator[RowGroup]:
        dead, start = self.dead.get(shard, Dead()).rows, 0
        for group, rows in enumerate(sizes):
            inside = tuple(sorted(row - start for row in dead if start <= row < start + rows))
            yield RowGroup(url, group, start, rows, inside)
            start += rows

    def read_row_group(self, group: RowGroup, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """The live rows of one row group. Raises RequestError for a column that is not there."""
        return self._read(group, columns, None)

    def _read(
        self, group: RowGroup, columns: Sequence[str] | None, keep: frozenset[int] | None
    ) -> pa.RecordBatch:
        data = open_data(group.url)
        try:
            batch = data.read(group.group, read_names(data.schema, checked_columns(data, columns)))
        finally:
            data.close()
        rows = [row for row in _alive(group.rows, group.dead).tolist() if keep is None or row in keep]
        return with_tensors(batch if len(rows) == group.rows else batch.take(pa.array(rows, pa.int64())))


def _number(url: str, wanted: int | str) -> int:
    return int(wanted) if str(wanted).isdigit() else tags.read_tag(url, str(wanted))


def dead_rows(deletes: pa.Table) -> dict[str, Dead]:
    """A table of deletes as sets of rows, by shard."""
    rows: dict[str, set[int]] = defaultdict(set)
    failed: dict[str, set[int]] = defaultdict(set)
    for row in deletes.select(["shard", "row", "failed"]).to_pylist():
        (failed if row["failed"] else rows)[row["shard"]].add(row["row"])
    return {shard: Dead(frozenset(rows[shard]), frozenset(failed[shard])) for shard in {*rows, *failed}}


def live_index(table: pa.Table, dead: Dead) -> pa.Table:
    """The rows of an index that are live, be they data or failures."""
    if not dead.rows and not dead.failed:
        return table
    pairs = zip(table.column("row").to_pylist(), table.column("failed").to_pylist(), strict=True)
    return table.filter(
        pa.array([row not in (dead.failed if failed else dead.rows) for row, failed in pairs])
    )


def checked_columns(data: DataFile, columns: Sequence[str] | None) -> list[str]:
    """``columns``, or all of them. Raises RequestError for one that is not there."""
    scales = scale_names(data.schema)
    names = [name for name in data.schema.names if name not in scales]
    for column in columns or ():
        if column not in names:
            raise RequestError(f"no column {column!r} in this store; expected some of {', '.join(names)}")
    return names if columns is None else list(columns)


def _group_rows(url: str) -> list[int]:
    data = open_data(url)
    try:
        return data.group_rows
    finally:
        data.close()


def _alive(rows: int, dead: Iterable[int]) -> np.ndarray:
    alive = np.ones(rows, dtype=bool)
    alive[list(dead)] = False
    return np.flatnonzero(alive)
