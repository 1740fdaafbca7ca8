"""Settles on the launcher which features are stored. Does not import torch, so it is fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from captionbeam.capmodel.specs import Reduction, StoredAs, complete_spec
from captionbeam.schemas.errors import FingerprintError, RequestError
from captionbeam.schemas.fingerprint import difference, fingerprint, spec_of
from captionbeam.schemas.formats.components import encoder_fingerprint, encoder_part, read_components
from captionbeam.schemas.formats.int8 import stored_columns

DTYPES = ("float16", "int8")


@dataclass(frozen=True)
class FeaturePlan:
    """Which features are stored, and how.

    ``spec``: the record of the encoder's or import's spec and of ``StoredAs``; its hash is the fingerprint.
    ``column``, ``shape``: of a row. ``components``: URL of the file.
    """

    spec: Mapping[str, Any]
    column: str
    shape: tuple[int, ...]
    components: str | None = None

    @property
    def fingerprint(self) -> str:
        """The features' fingerprint: 32 hexadecimal digits."""
        return fingerprint(self.spec)

    @property
    def field(self) -> pa.Field:
        """The column of features."""
        return columns_of(self.spec, self.column, self.shape).field(0)


def resolve_features(
    spec: Mapping[str, Any],
    column: str,
    shape: Sequence[int],
    reduce: str | None = None,
    dim: int | None = None,
    dtype: str = "float16",
) -> FeaturePlan:
    """Returns the plan for features of ``spec``. Runs on the launcher.

    ``reduce``: a file of components, of which the first ``dim`` are used (None: all). Raises RequestError, and
    FingerprintError for components that were fitted to other features.
    """
    if dtype not in DTYPES:
        raise RequestError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if dim is not None and reduce is None:
        raise RequestError(f"--reduce-dim {dim} would do nothing without --reduce; expected components too")
    reduction = None if reduce is None else _reduction(reduce, dim, spec, shape[-1])
    width = reduction.dim if reduction else shape[-1]
    record = {**spec, **spec_of(StoredAs(reduction, dtype))}
    return FeaturePlan(record, column, (*shape[:-1], width), reduce)


def _reduction(url: str, dim: int | None, spec: Mapping[str, Any], channels: int) -> Reduction:
    found = read_components(url)
    if found.about["fingerprint"] != encoder_fingerprint(spec):
        other = difference(complete_spec(found.about["spec"]), complete_spec(encoder_part(spec)))
        raise FingerprintError(
            f"the components {url!r} were fitted to features of {other or 'another fingerprint'}; expected "
            "components of the same encoder, weights, preprocessing and output"
        )
    count, width = found.vectors.shape
    if width != channels:
        raise RequestError(f"the components {url!r} are of {width} channels; expected {channels}")
    if dim is not None and dim > count:
        raise RequestError(
            f"--reduce-dim {dim} is more than the {count} components of {url!r}; expected at most as many"
        )
    return Reduction(found.method, dim or count, found.sha256)


def columns_of(spec: Mapping[str, Any], column: str, shape: Sequence[int]) -> pa.Schema:
    """Returns the stored columns of features of ``spec``."""
    return stored_columns(column, shape, spec.get("dtype", StoredAs.dtype))
