"""Describes an array, the location of its rows in the file, and the features that a row becomes.

Shapes: N rows; H, W, C a grid's height, width and channels; L = H * W its cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from captionbeam.capmodel.specs import ImportedSpec
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import spec_of
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.options import Kind, option

DTYPES = ("float16", "float32", "float64")


class ArraySpec(NamedTuple):
    """An array in a file.

    ``url``, ``kind``: the file, and its format (``npy``, ``npz``, ``hdf5``). ``key``: the array's name in a file of
    several arrays. ``offset``: bytes before the first row in the file, -1 if rows have no fixed place (HDF5, a
    compressed .npz). ``fortran``: the first axis varies fastest. ``version``: the file's version, None if its storage
    has none.
    """

    url: str
    kind: str
    key: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    fortran: bool
    version: str | None

    @property
    def rows(self) -> int:
        """Number of rows, N."""
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def label(self) -> str:
        """The array's name in error messages."""
        return f"{self.url!r}, {self.key!r}" if self.key else repr(self.url)


def _read_grid(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def _is_grid(value: Any) -> bool:
    return len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value)


GRID = Kind(_read_grid, _is_grid, "HEIGHTxWIDTH, such as 14x14", "HxW")


@dataclass(frozen=True)
class Layout:
    """The layout of a row: ``[C]``, ``[L, C]`` with a ``grid`` ``(H, W)``, or ``[H, W, C]``.

    ``channels_first``: ``[C, L]`` or ``[C, H, W]`` instead.
    """

    GROUP = "arrays"

    grid: tuple[int, int] | None = option(
        None, "height and width of the grid with the L cells of [N, L, C]", GRID
    )
    channels_first: bool = option(False, "rows are [C, H, W] or [C, L]; they are transposed")

    def shape(self, array: ArraySpec) -> tuple[int, ...]:
        """Returns a row's shape in the store, ``(H, W, C)`` or ``(C,)``. Raises RequestError if it does not fit."""
        row = array.shape[1:]
        if len(row) not in (1, 2, 3) or 0 in row:
            raise RequestError(
                f"array {array.label} is {_axes(array.shape)}; expected [N, C], [N, L, C] or [N, H, W, C]"
            )
        if (len(row) == 2) != (self.grid is not None):
            wanted = "expected --grid HxW too" if self.grid is None else "expected no --grid"
            raise RequestError(f"array {array.label} is {_axes(array.shape)}; {wanted}")
        channels, *cells = row if self.channels_first else (row[-1], *row[:-1])
        if self.grid is None:
            return (*cells, channels)
        if math.prod(self.grid) != cells[0]:
            height, width = self.grid
            raise RequestError(
                f"array {array.label} is {_axes(array.shape)}, with {cells[0]} cells a row; "
                f"expected as many as --grid {height}x{width} has, {height * width}"
            )
        return (*self.grid, channels)

    def features(self, row: np.ndarray) -> np.ndarray:
        """Returns a row of the array as features, in its own dtype."""
        turned = np.moveaxis(row, 0, -1) if self.channels_first else row
        return turned if self.grid is None else turned.reshape(*self.grid, turned.shape[-1])


def is_features(dtype: str) -> bool:
    """Returns whether numbers of this dtype, in either byte order, are accepted as features."""
    return dtype != "text" and np.dtype(dtype).newbyteorder("=").name in DTYPES


def import_spec(name: str, shape: tuple[int, ...]) -> Mapping[str, Any]:
    """Returns all that decides such a row except the array's numbers. Its hash is the features' fingerprint.

    ``name`` is the user's name for the model that made the features.
    """
    return spec_of(ImportedSpec(name, "grid" if len(shape) == 3 else "pooled", tuple(shape)))


def field_of(spec: Mapping[str, Any]) -> pa.Field:
    """Returns the output column of an ``import_spec``."""
    return arrow.grid_field(spec["output"], tuple(spec["shape"]))


def _axes(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
