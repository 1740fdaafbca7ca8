"""Features kept as int8: a code a number, and beside each row the scales that give the numbers back.

    value = code * scale

A grid ``[H, W, C]`` has a scale a channel, ``[C]`` float16, in the column ``grid_scale``; a pooled vector one, ``[1]``.
They are the row's own, so a row depends on its image alone, whatever shard it is in, rows of all shards may be merged,
and nothing has to be fitted before the first image. A scale is the largest magnitude / 127: nothing is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from captionbeam.schemas.formats import arrow

LEVELS = 127
LARGEST = np.float16(515.5)  # of scales: 127 times the next one is no float16 any more
CHUNK = 1 << 17  # numbers at a time: they stay in the cache


def stored_columns(name: str, shape: Sequence[int], dtype: str = "float16") -> pa.Schema:
    """The columns that features of one ``shape`` are kept in: one of float16; or int8 codes, and their scales."""
    if dtype != "int8":
        return pa.schema([arrow.grid_field(name, shape, dtype)])
    scales = f"{name}{arrow.SCALE}"
    width = shape[-1] if len(shape) > 1 else 1
    return pa.schema([arrow.grid_field(name, shape, dtype, scales), arrow.grid_field(scales, (width,))])


def quantise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float16 ``[n, ..., C]`` as codes int8 of that shape and scales float16 ``[n, C]``; of ``[n, C]``: ``[n, 1]``.

    A channel of zeros has the scale 0.
    """
    codes = np.empty(values.shape, np.int8)
    scales = np.empty((len(values), values.shape[-1] if values.ndim > 2 else 1), np.float16)
    for rows in _chunks(values.shape):
        numbers = values[rows].astype(np.float32).reshape(len(values[rows]), -1, values.shape[-1])
        axis = 1 if values.ndim > 2 else (1, 2)
        largest = np.abs(numbers).max(axis).reshape(len(numbers), -1)
        scales[rows] = np.minimum(_no_less(largest / LEVELS), LARGEST)
        divisor = scales[rows].astype(np.float32)
        divisor[divisor == 0] = 1
        numbers /= divisor[:, None]
        codes[rows] = np.rint(numbers, out=numbers).reshape(values[rows].shape)
    return codes, scales


def dequantise(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """``quantise``'s codes and scales as float16 ``[n, ..., C]``: each product rounded once."""
    values = np.empty(codes.shape, np.float16)
    factors = scales.astype(np.float32).reshape(len(codes), *[1] * (codes.ndim - 2), -1)
    for rows in _chunks(codes.shape):
        values[rows] = np.multiply(codes[rows], factors[rows], dtype=np.float32)
    return values


def rounded(values: np.ndarray) -> np.ndarray:
    """float16 features as they come back from a store of int8."""
    return dequantise(*quantise(values))


def _chunks(shape: Sequence[int]) -> list[slice]:
    step = max(1, CHUNK // max(1, math.prod(shape[1:])))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def _no_less(numbers: np.ndarray) -> np.ndarray:
    """float16 that are not below ``numbers``, so that no code goes beyond 127."""
    halves = numbers.astype(np.float16)
    return np.where(halves.astype(np.float32) < numbers, np.nextafter(halves, np.float16(np.inf)), halves)


@dataclass
class RoundingError:
    """How far int8 is from the float16 that it stands for, over all rows that were added.

    ``max_abs``: the largest difference; ``max_value``: the largest magnitude; the sums: of the squares of differences
    and of values. ``to_dict`` adds ``max_relative`` and ``rms_relative``: by the largest magnitude, and by the root of
    the mean square.
    """

    max_abs: float = 0.0
    max_value: float = 0.0
    sum_squared_error: float = 0.0
    sum_squares: float = 0.0

    def add(self, values: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
        """Compare float16 ``values`` ``[n, ..., C]`` with what their codes give back."""
        for rows in _chunks(values.shape):
            exact = values[rows].astype(np.float32)
            error = dequantise(codes[rows], scales[rows]) - exact
            self._grow(float(np.abs(error).max()), float(np.abs(exact).max()))
            self.sum_squared_error += float(np.vdot(error, error))
            self.sum_squares += float(np.vdot(exact, exact))

    def merge(self, other: dict[str, float]) -> None:
        """Add what another part's ``to_dict`` says."""
        self._grow(other["max_abs"], other["max_value"])
        self.sum_squared_error += other["sum_squared_error"]
        self.sum_squares += other["sum_squares"]

    def _grow(self, error: float, value: float) -> None:
        self.max_abs, self.max_value = max(self.max_abs, error), max(self.max_value, value)

    def to_dict(self) -> dict[str, float]:
        """The four numbers, and what they are relative to the features."""
        relative = self.max_abs / self.max_value if self.max_value else 0.0
        rms = math.sqrt(self.sum_squared_error / self.sum_squares) if self.sum_squares else 0.0
        return {**vars(self), "max_relative": relative, "rms_relative": rms}


def scale_names(schema: pa.Schema) -> set[str]:
    """The columns of ``schema`` that are another's scales."""
    return {name for field in schema if (name := arrow.scale_name(field)) is not None}


def read_names(schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    """``columns``, and the scales that those of int8 need."""
    scales = [arrow.scale_name(schema.field(name)) for name in columns]
    return [*columns, *(name for name in scales if name is not None)]


def quantised(columns: dict[str, Any], schema: pa.Schema, error: RoundingError) -> dict[str, Any]:
    """A processor's columns as ``schema`` keeps them: float16 becomes int8 where it says so, ``error`` grows.

    Columns that have their scales are kept already.
    """
    kept = dict(columns)
    for field in schema:
        if (scales := arrow.scale_name(field)) is not None and scales not in columns:
            kept[field.name], kept[scales] = quantise(columns[field.name])
            error.add(columns[field.name], kept[field.name], kept[scales])
    return kept


def with_tensors(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A data file's ``batch`` with its grids as tensors; int8 as float16, without the scales."""
    hidden = scale_names(batch.schema)
    fields = [field for field in batch.schema if field.name not in hidden]
    arrays = [_whole(batch, field) for field in fields]
    kept = [
        pa.field(field.name, array.type, field.nullable, None if arrow.is_grid(field) else field.metadata)
        for field, array in zip(fields, arrays, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(kept, batch.schema.metadata))


def _whole(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    column, scales = batch.column(field.name), arrow.scale_name(field)
    if not arrow.is_grid(field):
        return column
    tensor = arrow.as_tensor(column, field)
    if scales is None:
        return tensor
    factors = arrow.as_tensor(batch.column(scales), batch.schema.field(scales)).to_numpy_ndarray()
    values = dequantise(tensor.to_numpy_ndarray(), factors)
    return arrow.from_numpy(values, arrow.grid_field(field.name, values.shape[1:]))
