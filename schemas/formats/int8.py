"""Features as int8: one code per number, and the scales that restore the numbers.

    value = code * scale

A grid ``[H, W, C]`` has one scale per channel, ``[C]`` float16, in the column ``grid_scale``; a pooled vector has one
scale, ``[1]``. Scales belong to a single row. A row therefore depends on its image only, shards can be merged, and
nothing has to be fitted in advance. A scale is the largest magnitude / 127, so nothing is clipped.
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
LARGEST = np.float16(515.5)  # largest scale: 127 times the next float16 exceeds float16
CHUNK = 1 << 17  # numbers per step, to fit into the CPU cache


def stored_columns(name: str, shape: Sequence[int], dtype: str = "float16") -> pa.Schema:
    """Returns the columns for features of one ``shape``: one float16 column, or int8 codes and their scales."""
    if dtype != "int8":
        return pa.schema([arrow.grid_field(name, shape, dtype)])
    scales = f"{name}{arrow.SCALE}"
    width = shape[-1] if len(shape) > 1 else 1
    return pa.schema([arrow.grid_field(name, shape, dtype, scales), arrow.grid_field(scales, (width,))])


def quantise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Converts float16 ``[n, ..., C]`` to int8 codes of that shape and float16 scales ``[n, C]``.

    For ``[n, C]``, the scales are ``[n, 1]``. A channel of zeros has scale 0.
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
    """Returns float16 ``[n, ..., C]`` from the codes and scales of ``quantise``. Each product is rounded once."""
    values = np.empty(codes.shape, np.float16)
    factors = scales.astype(np.float32).reshape(len(codes), *[1] * (codes.ndim - 2), -1)
    for rows in _chunks(codes.shape):
        values[rows] = np.multiply(codes[rows], factors[rows], dtype=np.float32)
    return values


def rounded(values: np.ndarray) -> np.ndarray:
    """Returns float16 features as an int8 store would return them."""
    return dequantise(*quantise(values))


def _chunks(shape: Sequence[int]) -> list[slice]:
    step = max(1, CHUNK // max(1, math.prod(shape[1:])))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def _no_less(numbers: np.ndarray) -> np.ndarray:
    """Rounds ``numbers`` up to float16, so that no code exceeds 127."""
    halves = numbers.astype(np.float16)
    return np.where(halves.astype(np.float32) < numbers, np.nextafter(halves, np.float16(np.inf)), halves)


@dataclass
class RoundingError:
    """Difference between int8 features and their float16 originals, over all added rows.

    ``rows`` is their number. ``max_abs`` is the largest difference, ``max_value`` the largest magnitude. The sums are
    those of squared differences and of squared values. ``to_dict`` adds ``max_relative`` (relative to the largest
    magnitude) and ``rms_relative`` (relative to the root mean square).
    """

    rows: int = 0
    max_abs: float = 0.0
    max_value: float = 0.0
    sum_squared_error: float = 0.0
    sum_squares: float = 0.0

    def add(self, values: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
        """Adds float16 ``values`` ``[n, ..., C]`` and their codes."""
        self.rows += len(values)
        for rows in _chunks(values.shape):
            exact = values[rows].astype(np.float32)
            error = dequantise(codes[rows], scales[rows]) - exact
            self._grow(float(np.abs(error).max()), float(np.abs(exact).max()))
            self.sum_squared_error += float(np.vdot(error, error))
            self.sum_squares += float(np.vdot(exact, exact))

    def merge(self, other: dict[str, float]) -> None:
        """Adds the ``to_dict`` result of another part."""
        self.rows += int(other.get("rows", 0))
        self._grow(other["max_abs"], other["max_value"])
        self.sum_squared_error += other["sum_squared_error"]
        self.sum_squares += other["sum_squares"]

    def _grow(self, error: float, value: float) -> None:
        self.max_abs, self.max_value = max(self.max_abs, error), max(self.max_value, value)

    def to_dict(self) -> dict[str, float]:
        """Returns the fields, ``max_relative`` and ``rms_relative``."""
        relative = self.max_abs / self.max_value if self.max_value else 0.0
        rms = math.sqrt(self.sum_squared_error / self.sum_squares) if self.sum_squares else 0.0
        return {**vars(self), "max_relative": relative, "rms_relative": rms}


def scale_names(schema: pa.Schema) -> set[str]:
    """Returns the columns of ``schema`` that hold scales."""
    return {name for field in schema if (name := arrow.scale_name(field)) is not None}


def read_names(schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    """Returns ``columns`` and the scale columns that they need."""
    scales = [arrow.scale_name(schema.field(name)) for name in columns]
    return [*columns, *(name for name in scales if name is not None)]


def quantised(columns: dict[str, Any], schema: pa.Schema, error: RoundingError) -> dict[str, Any]:
    """Converts a processor's float16 columns to int8 where ``schema`` requires it, and updates ``error``.

    Columns that already have scales are left unchanged: their originals are not known, so ``error`` neither.
    """
    kept = dict(columns)
    for field in schema:
        if (scales := arrow.scale_name(field)) is not None and scales not in columns:
            kept[field.name], kept[scales] = quantise(columns[field.name])
            error.add(columns[field.name], kept[field.name], kept[scales])
    return kept


def with_tensors(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns ``batch`` of a data file with grids as tensors; int8 becomes float16, without the scale columns."""
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
