"""Output of one attempt at a shard: its files, with unique names, then the commit that names them."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from captionbeam.pipelines.bulk.kept_schema import kept_schema
from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.workers.exif import exif_schema
from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.datafile import SUFFIX, DataWriter, open_writer
from captionbeam.schemas.formats.int8 import RoundingError, quantised
from captionbeam.schemas.formats.kept import empty_places, table_of, with_exif, without_nulls
from captionbeam.schemas.records import Failure, ImageRef, WrittenFile
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.layout import Commit
from captionbeam.schemas.store.rows import FailureRow, IdentityRow, IndexRow, manifest_row, put_table

QUEUED_BATCHES = 4


@dataclass(frozen=True)
class Done:
    """A processed image: its reference, the SHA-256 of its bytes, or of its row of features, and what the file says of
    itself.
    """

    ref: ImageRef
    content: str
    exif: Mapping[str, Any] = default(default_factory=dict)


class ShardOutput:
    """Collects a shard's rows, failures and kept columns and commits them. A context manager, which discards them on
    an error.

    A separate thread writes rows a few batches behind, so that compression and storage do not block the model. Every
    method raises SystemicError if the storage fails.
    """

    def __init__(self, run: Run, shard: str, columns: pa.Schema) -> None:
        self._run, self._shard = run, shard
        self._schema = arrow.row_schema(columns, run.kind, run.fingerprint)
        self._name = f"{shard}-{uuid.uuid4().hex[:12]}"
        self._done: list[Done] = []
        self._failures: list[Failure] = []
        self._failures_exif: list[Mapping[str, Any]] = []
        self._rounding = RoundingError()
        self._queue: queue.Queue[tuple[Sequence[Done], dict[str, Any]] | None] = queue.Queue(QUEUED_BATCHES)
        self._error: BaseException | None = None
        self._writer: DataWriter | None = None
        self._thread = threading.Thread(target=self._write_all, name="shard-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._writer is not None:
            self._writer.abort()

    def add(self, done: Sequence[Done], columns: dict[str, Any]) -> None:
        """Adds rows in order: numpy arrays ``[n, ...]`` for grids, else Arrow arrays. Copied rows are all Arrow."""
        self._raise()
        self._done += done
        self._queue.put((done, columns))

    def fail(self, failure: Failure, exif: Mapping[str, Any] | None = None) -> None:
        """Adds an image that could not be processed, with what its file says of itself."""
        self._failures.append(failure)
        self._failures_exif.append(exif or {})

    @property
    def failed(self) -> set[str]:
        """Ids of the images that could not be processed."""
        return {failure.image_id for failure in self._failures}

    def commit(self, counts: dict[str, int]) -> Commit:
        """Finishes the files and creates the commit. Returns the valid commit, this one or an earlier one."""
        self._stop()
        self._raise()
        try:
            data = self._finish_data()
            failures = self._put("failures", pa.Table.from_pylist(self._failure_rows(), arrow.FAILURES))
            index = self._put("index", pa.Table.from_pylist(self._index_rows(), arrow.INDEX))
            columns = self._put("columns", self._kept_table()) if self._run.keeps or self._run.exif else None
            ours = self._commit_record(data, failures, index, columns, {**counts, **self._empty_places()})
            if layout.create_commit(self._run.url, ours):
                return ours
        except OSError as err:
            raise storage_error(self._run.url, err) from err
        winner = layout.load_commit(self._run.url, self._shard)
        if winner is None:
            raise SystemicError(
                f"the commit of shard {self._shard} appeared and went away; expected it to stay"
            )
        return winner

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(*item)
                except BaseException as err:  # noqa: BLE001 - passed on to the shard's own thread, whatever it is
                    self._error = err

    def _write(self, done: Sequence[Done], columns: dict[str, Any]) -> None:
        if self._writer is None:
            name = self._name + SUFFIX[self._run.format]
            self._writer = open_writer(files.join(self._run.url, "data", name), self._schema)
        kept = quantised(columns, self._schema, self._rounding)
        self._writer.write(self._batch([item.ref for item in done], kept))

    def _batch(self, refs: list[ImageRef], columns: dict[str, Any]) -> pa.RecordBatch:
        rows = [(ref.image_id, ref.location, ref.version, ref.source) for ref in refs]
        arrays = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
        for field in list(self._schema)[len(arrays) :]:
            values = columns[field.name]
            packed = arrow.pack_grid(values, field) if isinstance(values, np.ndarray) else values
            arrays.append(packed.cast(field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _finish_data(self) -> WrittenFile:
        if self._writer is None:
            return WrittenFile("", 0, sha256_bytes(b""), 0)
        written = self._writer.close()
        self._writer = None
        return written

    def _put(self, folder: str, table: pa.Table) -> WrittenFile:
        return put_table(self._run.url, f"{folder}/{self._name}.parquet", table, self._run.fingerprint)

    def _failure_rows(self) -> list[FailureRow]:
        return [
            {**_identity(failed), "stage": failed.stage, "code": failed.code, "message": failed.message}
            for failed in self._failures
        ]

    def _index_rows(self) -> list[IndexRow]:
        rows: list[IndexRow] = [
            {
                **_identity(done.ref),
                "uri": done.ref.location,
                "row": row,
                "failed": False,
                "code": None,
                "content": done.content,
                "replaces": done.ref.replaces,
            }
            for row, done in enumerate(self._done)
        ]
        return rows + [
            {
                **_identity(failed),
                "row": row,
                "failed": True,
                "code": failed.code,
                "content": None,
                "replaces": failed.replaces,
            }
            for row, failed in enumerate(self._failures)
        ]

    def _kept_table(self) -> pa.Table:
        done = [(item.ref.image_id, False, item.ref.columns) for item in self._done]
        failed = [(failure.image_id, True, failure.columns) for failure in self._failures]
        schema = without_nulls(kept_schema(self._run))
        table = table_of([*done, *failed], schema)
        if not self._run.exif:
            return table
        exif = [*(item.exif for item in self._done), *self._failures_exif]
        return with_exif(table, pa.array(exif, pa.struct(list(exif_schema(self._run.exif)))))

    def _empty_places(self) -> dict[str, int]:
        """Returns the numbers of images without a value in columns that prompts use, if there are any."""
        texts = [item.ref.columns for item in self._done] + [failure.columns for failure in self._failures]
        return dict(empty_places(texts, self._run.used_columns))

    def _commit_record(
        self,
        data: WrittenFile,
        failures: WrittenFile,
        index: WrittenFile,
        columns: WrittenFile | None,
        counts: dict[str, int],
    ) -> Commit:
        return Commit(
            **manifest_row(self._shard, data, failures, index, columns),
            run=self._run.run_id,
            fingerprint=self._run.fingerprint,
            counts=counts,
            rounding=self._rounding.to_dict() if self._rounding.rows else {},
        )

    def _stop(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if isinstance(self._error, OSError):
            raise storage_error(self._run.url, self._error) from self._error
        if self._error is not None:
            raise self._error


def storage_error(url: str, error: OSError) -> SystemicError:
    """Returns a storage error as the SystemicError that stops a job."""
    return SystemicError(
        f"cannot write to {url}: {error.strerror or error}; expected a writable place with room"
    )


def _identity(image: ImageRef | Failure) -> IdentityRow:
    return {
        "image_id": image.image_id,
        "uri": image.uri,
        "version": image.version,
        "source": image.source,
    }
