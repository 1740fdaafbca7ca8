"""The processor for rows of arrays: copies them and checks that all numbers are finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from captionbeam.pipelines.features.array_spec import Layout, field_of
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.fingerprint import fingerprint

_BATCH_BYTES = 4 << 20


class Copier:
    """Converts rows of any float dtype to float16 ``[n, H, W, C]`` or ``[n, C]``."""

    streams = 1

    def __init__(self, spec: Mapping[str, Any], layout: Layout) -> None:
        self.fingerprint, self.schema = fingerprint(spec), pa.schema([field_of(spec)])
        self._column, self._layout = self.schema.field(0).name, layout
        self.batch_size = max(1, _BATCH_BYTES // self.schema.field(0).type.byte_width)

    def prepare(self, item: np.ndarray) -> np.ndarray:
        """Returns one row as float16. Raises ImageError if a number is not finite in float16."""
        with np.errstate(over="ignore", invalid="ignore"):
            row = np.ascontiguousarray(self._layout.features(item), np.float16)
        if not np.isfinite(row).all():
            raise ImageError("decode", "decode", _first_odd(item))
        return row

    def run(self, batch: Sequence[np.ndarray], image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns the rows as one array."""
        return {self._column: np.stack(batch)}


@dataclass(frozen=True)
class CopierJob:
    """Rows of arrays in ``layout`` to features of ``spec``."""

    spec: Mapping[str, Any]
    layout: Layout

    def load(self, threads: int, processes: int = 1) -> Copier:
        """Returns the copier, which needs no threads."""
        return Copier(self.spec, self.layout)


def _first_odd(item: np.ndarray) -> str:
    with np.errstate(over="ignore", invalid="ignore"):
        odd = ~np.isfinite(item.astype(np.float16))
    return f"{odd.sum()} of {item.size} numbers are not finite in float16, the first is {item[odd][0]}"
