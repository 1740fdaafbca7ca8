"""Writers of single export files: Parquet, JSON lines, CSV, WebDataset tars, and one large array."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captionbeam.schemas.formats.parquet import HashingStream
from captionbeam.schemas.storage import files


class Part(NamedTuple):
    """A finished file."""

    name: str
    rows: int
    bytes: int
    sha256: str


class FileWriter:
    """Writes one file: ``write`` batches, then ``close``, which returns the file's record."""

    def __init__(self, url: str, schema: pa.Schema = None) -> None:
        fs, path = files.split(url)
        self.name, self.rows = url.rsplit("/", 1)[-1], 0
        self._raw = fs.open(path, "wb")
        self.stream = HashingStream(self._raw)

    def write(self, batch: pa.RecordBatch) -> None:
        """Adds rows."""
        self._write(batch)
        self.rows += batch.num_rows

    def close(self) -> Part:
        """Finishes the file and returns its record."""
        self._finish()
        self._raw.close()
        return Part(self.name, self.rows, self.stream.bytes, self.stream.sha256)

    def _write(self, batch: pa.RecordBatch) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        """Writes the end of the file, if the format has one."""


class ParquetExport(FileWriter):
    """Plain Parquet, one row group per batch."""

    def __init__(self, url: str, schema: pa.Schema) -> None:
        super().__init__(url)
        sink = pa.PythonFile(self.stream, mode="w")
        self._writer = pq.ParquetWriter(sink, schema, compression="zstd")

    def _write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def _finish(self) -> None:
        self._writer.close()


class JsonlExport(FileWriter):
    """One JSON object per line."""

    def _write(self, batch: pa.RecordBatch) -> None:
        lines = (json.dumps(row, allow_nan=False, ensure_ascii=False) for row in batch.to_pylist())
        self.stream.write("".join(f"{line}\n" for line in lines).encode())


class CsvExport(FileWriter):
    """CSV by RFC 4180, with a header line."""

    def __init__(self, url: str, schema: pa.Schema) -> None:
        super().__init__(url)
        self._lines([schema.names])

    def _write(self, batch: pa.RecordBatch) -> None:
        self._lines(row.values() for row in batch.to_pylist())

    def _lines(self, rows: Any) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        self.stream.write(text.getvalue().encode())


class TarWriter(FileWriter):
    """WebDataset: ``<number>.json`` for each sample, and ``<number>.npy`` if it has features.

    The sample's key is a number, because dots and slashes in ids have a meaning in WebDataset.
    """

    def __init__(self, url: str, column: str, first: int) -> None:
        super().__init__(url)
        self._column, self._first = column, first
        sink: Any = self.stream  # has all methods that a tar needs
        self._tar = tarfile.TarFile(fileobj=sink, mode="w")

    def _write(self, batch: pa.RecordBatch) -> None:
        column, rest = batch.column(self._column), batch.drop_columns([self._column]).to_pylist()
        is_grid = isinstance(column, pa.ExtensionArray)
        values = column.to_numpy_ndarray() if is_grid else column.to_pylist()
        for at, (row, value) in enumerate(zip(rest, values, strict=True), self._first + self.rows):
            whole = row if is_grid else {**row, self._column: value}
            self._add(f"{at:09d}.json", json.dumps(whole, allow_nan=False).encode())
            if is_grid:
                sink = io.BytesIO()
                np.save(sink, value, allow_pickle=False)
                self._add(f"{at:09d}.npy", sink.getvalue())

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def _finish(self) -> None:
        self._tar.close()


class NpyWriter:
    """Writes ``<column>.npy`` ``[rows, *shape]`` float16, and ``ids.jsonl`` with the other columns."""

    def __init__(self, folder: str, column: str, shape: tuple[int, ...], rows: int) -> None:
        self._column = column
        self._array = _Array(files.join(folder, f"{column}.npy"), (rows, *shape))
        self._ids = JsonlExport(files.join(folder, "ids.jsonl"))

    def write(self, batch: pa.RecordBatch) -> None:
        """Adds rows."""
        self._array.write(batch.select([self._column]))
        self._ids.write(batch.drop_columns([self._column]))

    def finish(self) -> list[Part]:
        """Finishes both files."""
        return [self._array.close(), self._ids.close()]


class _Array(FileWriter):
    def __init__(self, url: str, shape: tuple[int, ...]) -> None:
        super().__init__(url)
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)

    def _write(self, batch: pa.RecordBatch) -> None:
        values = batch.column(0).to_numpy_ndarray()
        self.stream.write(np.ascontiguousarray(values, "<f2").reshape(-1).view(np.uint8).data)  # type: ignore[arg-type]


FORMATS = {
    "parquet": "features as lists of float32 (grids flat, C order), captions nested, JSON typed; opens in any reader",
    "jsonl": "the same, one JSON object a line",
    "csv": "one line per caption of each prompt, best first; or one column per channel of pooled features",
    "webdataset": "tars with 000000012.npy and .json for each sample (captions: .json alone)",
    "npy": "features in one array [N, ...] float16 that numpy memory-maps, and ids.jsonl with the other columns",
}
"""Name of a format -> what it is, as the command's help says."""
TABLE_WRITERS: dict[str, Callable[[str, pa.Schema], FileWriter]] = {
    "parquet": ParquetExport,
    "jsonl": JsonlExport,
    "csv": CsvExport,
}
