"""One reader and writer API for Parquet and HDF5 data files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats.hdf5 import Hdf5Data, Hdf5Writer
from captionbeam.schemas.formats.parquet import ParquetData, ParquetWriter
from captionbeam.schemas.storage.object_stores import as_os_errors

FORMATS = ("parquet", "hdf5")
SUFFIX = {"parquet": ".parquet", "hdf5": ".h5"}

DataWriter = ParquetWriter | Hdf5Writer
DataFile = ParquetData | Hdf5Data


def check_format(name: str) -> str:
    """Returns ``name`` if it is a known format. Raises RequestError otherwise."""
    if name not in FORMATS:
        raise RequestError(f"unknown format {name!r}; expected one of {', '.join(FORMATS)}")
    return name


def open_writer(url: str, schema: pa.Schema) -> DataWriter:
    """Returns a writer for the format of the URL's suffix."""
    return Hdf5Writer(url, schema) if url.endswith(SUFFIX["hdf5"]) else ParquetWriter(url, schema)


def open_data(url: str) -> DataFile:
    """Returns a reader for the format of the URL's suffix. Raises OSError, StoreError."""
    with as_os_errors(url):
        return Hdf5Data(url) if url.endswith(SUFFIX["hdf5"]) else ParquetData(url)


def read_rows(
    data: DataFile, rows: Sequence[int], columns: Sequence[str] | None = None
) -> Iterator[tuple[list[int], pa.RecordBatch]]:
    """Yields row numbers and their ``columns``, one row group at a time, for ascending row numbers ``rows``.

    ``columns`` defaults to all. Values are returned as stored.
    """
    wanted, start = np.array(rows, np.int64), 0
    for group, size in enumerate(data.group_rows):
        inside = wanted[(wanted >= start) & (wanted < start + size)]
        if len(inside):
            batch = data.read(group, data.schema.names if columns is None else columns)
            yield inside.tolist(), batch if len(inside) == size else batch.take(pa.array(inside - start))
        start += size
