"""What an array is, where its rows lie, and which features a row becomes.

Shapes: N rows; H, W, C a grid's height, width and channels; L = H * W its cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.formats import arrow

DTYPES = ("float16", "float32", "float64")


class ArraySpec(NamedTuple):
    """One array: the file's ``url``, ``kind`` (``npy``, ``npz``, ``hdf5``) and, in a file of several, its ``key``.

    ``offset``: bytes of the file before the first row, -1 where rows have none of their own (HDF5, a compressed
    .npz). ``fortran``: the first axis runs fastest. ``version``: the file's, None where its storage tells none.
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
        """N."""
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def said(self) -> str:
        """As errors name it."""
        return f"{self.url!r}, {self.key!r}" if self.key else repr(self.url)


@dataclass(frozen=True)
class Layout:
    """How a row is to be read: ``[C]``, ``[L, C]`` with a ``grid`` ``(H, W)``, or ``[H, W, C]``.

    ``channels_first``: ``[C, L]`` or ``[C, H, W]`` instead.
    """

    grid: tuple[int, int] | None = None
    channels_first: bool = False

    def shape(self, array: ArraySpec) -> tuple[int, ...]:
        """Of a row in the store: ``(H, W, C)`` or ``(C,)``. Raises RequestError for what does not fit."""
        row = array.shape[1:]
        if len(row) not in (1, 2, 3) or 0 in row:
            raise RequestError(
                f"array {array.said} is {_axes(array.shape)}; expected [N, C], [N, L, C] or [N, H, W, C]"
            )
        if len(row) == 1 and self.channels_first:
            raise RequestError(
                f"--channels-first would do nothing for {array.said}, which is {_axes(array.shape)}"
            )
        if (len(row) == 2) != (self.grid is not None):
            wanted = "expected --grid HxW too" if self.grid is None else "expected to leave --grid out"
            raise RequestError(f"array {array.said} is {_axes(array.shape)}; {wanted}")
        channels, *cells = row if self.channels_first else (row[-1], *row[:-1])
        if self.grid is None:
            return (*cells, channels)
        if math.prod(self.grid) != cells[0]:
            height, width = self.grid
            raise RequestError(
                f"array {array.said} is {_axes(array.shape)}, with {cells[0]} cells a row; "
                f"expected as many as --grid {height}x{width} has, {height * width}"
            )
        return (*self.grid, channels)

    def features(self, row: np.ndarray) -> np.ndarray:
        """A row of the array as features in its own dtype."""
        turned = np.moveaxis(row, 0, -1) if self.channels_first else row
        return turned if self.grid is None else turned.reshape(*self.grid, turned.shape[-1])


def is_features(dtype: str) -> bool:
    """Whether numbers of this dtype are taken, in either byte order."""
    return dtype != "text" and np.dtype(dtype).newbyteorder("=").name in DTYPES


def import_spec(name: str, shape: tuple[int, ...]) -> Mapping[str, Any]:
    """What decides such a row besides the array's own numbers; its hash is the features' fingerprint.

    ``name`` is what the user calls whatever made the features.
    """
    return {"imported": name, "output": "grid" if len(shape) == 3 else "pooled", "shape": list(shape)}


def field_of(spec: Mapping[str, Any]) -> pa.Field:
    """The output column of an ``import_spec``."""
    return arrow.grid_field(spec["output"], tuple(spec["shape"]))


def fingerprint_of(spec: Mapping[str, Any]) -> str:
    """32 hexadecimal digits."""
    return fingerprint(spec)


def _axes(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
