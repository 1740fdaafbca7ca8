"""Data files of either format behind one pair of doors."""

from __future__ import annotations

import pyarrow as pa

from schemas.errors import RequestError
from schemas.hdf5 import Hdf5Data, Hdf5Writer
from schemas.parquet import ParquetData, ParquetWriter
from schemas.remote import refusals

FORMATS = ("parquet", "hdf5")
SUFFIX = {"parquet": ".parquet", "hdf5": ".h5"}

DataWriter = ParquetWriter | Hdf5Writer
DataFile = ParquetData | Hdf5Data


def check_format(name: str) -> str:
    """``name`` if it is a format. Raises RequestError."""
    if name not in FORMATS:
        raise RequestError(f"unknown format {name!r}; expected one of {', '.join(FORMATS)}")
    return name


def open_writer(url: str, schema: pa.Schema) -> DataWriter:
    """A writer for the format that the URL's suffix names."""
    return Hdf5Writer(url, schema) if url.endswith(SUFFIX["hdf5"]) else ParquetWriter(url, schema)


def open_data(url: str) -> DataFile:
    """A reader for the format that the URL's suffix names. Raises OSError, StoreError."""
    with refusals(url):
        return Hdf5Data(url) if url.endswith(SUFFIX["hdf5"]) else ParquetData(url)
