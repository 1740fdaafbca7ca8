"""The kept columns of a run: their types, written once before any shard is planned. This module does not use Beam."""

from __future__ import annotations

import functools

import pyarrow as pa

from captionbeam.pipelines.bulk.run import Run
from captionbeam.schemas.storage import files

RECORD = "columns.arrow"


def write_kept_schema(run: Run, schema: pa.Schema) -> None:
    """Writes names and types of the run's kept columns if they are not written yet."""
    files.create(files.join(run.folder, RECORD), schema.serialize().to_pybytes())


def kept_schema(run: Run) -> pa.Schema:
    """Returns names and types of the run's kept columns; no columns if it keeps none.

    A column without any value has the type null.
    """
    return _read_schema(files.join(run.folder, RECORD)) if run.keeps else pa.schema([])


@functools.lru_cache(maxsize=4)
def _read_schema(url: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(files.read_bytes(url)))
