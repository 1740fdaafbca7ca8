"""Data files in HDF5: dataset ``grid`` (or ``pooled``) ``[N, ...]``, one chunk per image, with the identity columns.

h5py cannot write to object stores, so a file is written to the local disk and uploaded as a whole. Files are read in
place, remote ones through fsspec. Version and fingerprint are attributes of the file.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from captionbeam.schemas.fingerprint import sha256_file
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.parquet import rows_per_group
from captionbeam.schemas.records import WrittenFile
from captionbeam.schemas.storage import files
from captionbeam.schemas.storage.object_stores import as_os_errors

_TEXT = h5py.string_dtype("utf-8")


class _Disk(io.RawIOBase):
    """A new file at ``path`` that hides write errors from libhdf5, which crashes if it cannot finish writing.

    After the first error, writes go to memory: at most one batch, plus what libhdf5 writes on closing. ``check``
    raises that error.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 (closed by the owner)
        self._error: OSError | None = None
        self._held: list[tuple[int, bytes]] = []
        self._position = self._size = 0

    def check(self) -> None:
        """Raises the OSError of a failed write."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Flushes everything to the disk. Raises OSError."""
        self.check()
        os.fsync(self._file.fileno())

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        end = self._position + len(view)
        try:
            os.preadv(self._file.fileno(), [view], self._position)
        except OSError as err:
            self._error = self._error or err
        for start, data in self._held:
            first, last = max(start, self._position), min(start + len(data), end)
            if first < last:
                view[first - self._position : last - self._position] = data[first - start : last - start]
        self._position = end
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._error is None:
            try:
                self._write(view)
            except OSError as err:
                self._error = err
        if self._error is not None:
            self._held.append((self._position, bytes(view)))
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def _write(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += os.pwrite(self._file.fileno(), view[done:], self._position + done)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        try:
            os.ftruncate(self._file.fileno(), self._size)
        except OSError as err:
            self._error = self._error or err
        return self._size

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        super().close()


class Hdf5Writer:
    """Writes one data file: ``write`` batches, then ``close``, which returns the file's record, or ``abort``."""

    def __init__(self, url: str, schema: pa.Schema) -> None:
        self._url, self._schema, self._rows = url, schema, 0
        fs, path = files.split(url)
        self._local = files.is_local(fs)
        folder = os.path.dirname(path) if self._local else tempfile.gettempdir()
        self._path = path if self._local else os.path.join(folder, f"captionbeam-{uuid.uuid4().hex}.h5")
        with self._naming_the_disk():
            os.makedirs(folder, exist_ok=True)
            self._disk = _Disk(self._path)
        self._file = h5py.File(self._disk, "w", libver=("v108", "v110"))
        self._file.attrs.update({key.decode(): value.decode() for key, value in schema.metadata.items()})
        self._datasets = {field.name: self._dataset(field) for field in schema}

    def _dataset(self, field: pa.Field) -> h5py.Dataset:
        if not arrow.is_grid(field):
            return self._file.create_dataset(field.name, (0,), _TEXT, maxshape=(None,), chunks=(1024,))
        shape, dtype = arrow.grid_shape(field)
        return self._file.create_dataset(
            field.name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape)
        )

    def write(self, batch: pa.RecordBatch) -> None:
        """Adds rows. Raises OSError."""
        end = self._rows + batch.num_rows
        for field, column in zip(self._schema, batch.columns, strict=True):
            dataset = self._datasets[field.name]
            dataset.resize(end, axis=0)
            dataset[self._rows : end] = _values(field, column)
        self._rows = end
        with self._naming_the_disk():
            self._disk.check()

    def close(self) -> WrittenFile:
        """Finishes the file and uploads it if its URL is remote. Raises OSError."""
        self._file.close()
        with self._naming_the_disk():
            self._disk.finish()  # must be on the disk before the commit that names it
        self._disk.close()
        record = WrittenFile(
            self._url.rsplit("/", 1)[-1], os.path.getsize(self._path), sha256_file(self._path), self._rows
        )
        if not self._local:
            fs, path = files.split(self._url)
            with as_os_errors(self._url):
                fs.put_file(self._path, path)
            os.unlink(self._path)
        return record

    def abort(self) -> None:
        """Closes and removes the unfinished file."""
        self._file.close()
        self._disk.close()
        os.unlink(self._path)

    @contextlib.contextmanager
    def _naming_the_disk(self) -> Iterator[None]:
        """Names the local folder in errors of the local disk when the target is remote."""
        try:
            yield
        except OSError as err:
            if self._local:
                raise
            folder = os.path.dirname(self._path)
            said = f"{err.strerror or err} in {folder}, where HDF5 files are made before they are uploaded"
            raise OSError(err.errno, said) from err


def _values(field: pa.Field, column: pa.Array) -> Any:
    if arrow.is_grid(field):
        return arrow.as_tensor(column, field).to_numpy_ndarray()
    return ["" if value is None else value for value in column.to_pylist()]


class Hdf5Data:
    """Reads one data file by row group."""

    def __init__(self, url: str) -> None:
        fs, path = files.split(url)
        source = path if files.is_local(fs) else fs.open(path, "rb")
        self._file = h5py.File(source, "r")
        metadata = {key.encode(): str(value).encode() for key, value in self._file.attrs.items()}
        arrow.check_version(metadata, url)
        self.schema = pa.schema([self._field(name) for name in self._names()], metadata)

    def _names(self) -> list[str]:
        grids = [name for name in self._file if name not in arrow.IDENTITY_NAMES]
        return [*arrow.IDENTITY_NAMES, *sorted(grids)]

    def _field(self, name: str) -> pa.Field:
        dataset = self._file[name]
        if dataset.ndim > 1:
            scales = f"{name}{arrow.SCALE}"
            return arrow.grid_field(
                name, dataset.shape[1:], dataset.dtype.name, scales if scales in self._file else None
            )
        return next(field for field in arrow.IDENTITY if field.name == name)

    @property
    def group_rows(self) -> list[int]:
        """Rows per group. HDF5 has no row groups; sizes are the same as for Parquet."""
        rows, size = len(self._file["image_id"]), rows_per_group(self.schema)
        return [min(size, rows - start) for start in range(0, rows, size)]

    def read(self, group: int, columns: Sequence[str]) -> pa.RecordBatch:
        """Returns one row group, with grids as FixedSizeBinary."""
        size = rows_per_group(self.schema)
        rows = slice(group * size, (group + 1) * size)
        fields = [self.schema.field(name) for name in columns]
        arrays = [self._column(field, rows) for field in fields]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, self.schema.metadata))

    def _column(self, field: pa.Field, rows: slice) -> pa.Array:
        if arrow.is_grid(field):
            return arrow.pack_grid(np.asarray(self._file[field.name][rows]), field)
        values = list(self._file[field.name].asstr()[rows])
        return pa.array([None if field.nullable and not value else value for value in values], field.type)

    def close(self) -> None:
        self._file.close()
