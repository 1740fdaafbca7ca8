"""The kept columns of a run: their types, written once before any shard is planned. This module does not use Beam."""

from __future__ import annotations

import functools

import pyarrow as pa

from captionbeam.pipelines.bulk.run import Run
from captionbeam.schemas.storage import files

RECORD = "columns.arrow"


def write_kept_schema(run: Run, schema: pa.Schema) -> None:
    """Writes names and types of the run's kept columns if they are not written yet. Columns of nulls are text."""
    whole = pa.schema(
        [(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in schema]
    )
    files.create(files.join(run.folder, RECORD), whole.serialize().to_pybytes())


def kept_schema(run: Run) -> pa.Schema:
    """Returns names and types of the run's kept columns; no columns if it keeps none."""
    return _read_schema(files.join(run.folder, RECORD)) if run.keeps else pa.schema([])


@functools.lru_cache(maxsize=4)
def _read_schema(url: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(files.read_bytes(url)))
