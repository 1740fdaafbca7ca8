"""Arrow schemas of all Parquet files in a store, with schema version and fingerprint in their metadata.

A grid is one ``FixedSizeBinary`` value per row, with dtype and shape in the field's metadata. Any Parquet reader can
open it; ``as_tensor`` returns it as Arrow's ``fixed_shape_tensor`` without copying.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from captionbeam.schemas import versions
from captionbeam.schemas.errors import StoreError

SCHEMA_VERSION = 2  # version 1 has no kept columns
VERSION_KEY, KIND_KEY, FINGERPRINT_KEY = (
    b"captionbeam.version",
    b"captionbeam.kind",
    b"captionbeam.fingerprint",
)
PROMPT_KEY = b"captionbeam.prompt"  # of a column of answers: its prompt's fingerprint
DTYPE_KEY, SHAPE_KEY, SCALE_KEY = b"captionbeam.dtype", b"captionbeam.shape", b"captionbeam.scale"
SCALE = "_scale"  # suffix: ``grid_scale`` holds the scales of ``grid``

_TEXT, _INTEGER, _BOOLEAN = pa.string(), pa.int64(), pa.bool_()


def _required(kind: pa.DataType, *names: str) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name in names]


IDENTITY = (*_required(_TEXT, "image_id", "uri"), pa.field("version", _TEXT), *_required(_TEXT, "source"))
IDENTITY_NAMES = tuple(field.name for field in IDENTITY)
FAILURES = pa.schema([*IDENTITY, *_required(_TEXT, "stage", "code", "message")])
INDEX = pa.schema([
    *IDENTITY, *_required(_INTEGER, "row"), *_required(_BOOLEAN, "failed"), pa.field("code", _TEXT),
    pa.field("content", _TEXT), *_required(_TEXT, "replaces"),
])  # fmt: skip
MANIFEST = pa.schema([
    *_required(_TEXT, "shard", "data", "failures", "index"), *_required(_INTEGER, "rows", "failed", "bytes"),
    *_required(_TEXT, "data_sha256", "failures_sha256", "index_sha256"),
    pa.field("columns", _TEXT), pa.field("columns_sha256", _TEXT),
])  # fmt: skip
DELETES = pa.schema([
    *_required(_TEXT, "shard"), *_required(_INTEGER, "row"), *_required(_BOOLEAN, "failed"),
    *_required(_TEXT, "image_id", "reason"),
])  # fmt: skip
PLAN = pa.schema([
    *_required(_TEXT, "shard"), *_required(_BOOLEAN, "follows"), *_required(_TEXT, "image_id", "uri", "source"),
    pa.field("version", _TEXT), *_required(_TEXT, "kind"), *_required(_INTEGER, "offset", "length"),
    *_required(pa.int32(), "method"), *_required(_INTEGER, "size"), *_required(_TEXT, "column", "replaces", "columns"),
])  # fmt: skip


def grid_field(
    name: str, shape: Sequence[int], dtype: str = "float16", scales: str | None = None
) -> pa.Field:
    """Returns a column of arrays of one ``shape`` (``(H, W, C)`` or ``(C,)``) and ``dtype``, one array per row.

    ``scales`` names the column with the scales of int8 codes.
    """
    width = math.prod(shape) * np.dtype(dtype).itemsize
    metadata = {DTYPE_KEY: np.dtype(dtype).name, SHAPE_KEY: json.dumps(list(shape))}
    if scales is not None:
        metadata[SCALE_KEY] = scales
    return pa.field(name, pa.binary(width), nullable=False, metadata=metadata)


def captions_field(keep_attention: bool = False) -> pa.Field:
    """Returns ``captions``: a list, best first, of text, log-probability, tokens, and optional ``attention``
    ``[T][H*W]``.
    """
    parts = [
        pa.field("text", pa.string(), nullable=False),
        pa.field("logprob", pa.float32(), nullable=False),
        pa.field("tokens", pa.list_(pa.string()), nullable=False),
    ]
    if keep_attention:
        parts.append(pa.field("attention", pa.list_(pa.list_(pa.float32()))))
    return pa.field("captions", pa.list_(pa.struct(parts)), nullable=False)


def answers_field(name: str, prompt: str, value: pa.DataType | None = None) -> pa.Field:
    """Returns a column of an endpoint's answers: a list, best first, of text, finish reason, tokens and model.

    ``prompt``: the prompt's fingerprint, kept in the metadata. ``value``: the type of answers in JSON, kept beside
    their text.
    """
    parts = [
        pa.field("text", pa.string(), nullable=False),
        *([] if value is None else [pa.field("value", value)]),
        pa.field("finish_reason", pa.string()),
        pa.field("tokens_in", pa.int32()),
        pa.field("tokens_out", pa.int32()),
        pa.field("model", pa.string()),
    ]
    return pa.field(name, pa.list_(pa.struct(parts)), nullable=False, metadata={PROMPT_KEY: prompt})


def is_captions(field: pa.Field) -> bool:
    """Returns whether ``field`` has captions or answers: a list of structs with ``text``."""
    kind = field.type
    return bool(
        pa.types.is_list(kind)
        and pa.types.is_struct(kind.value_type)
        and kind.value_type.get_field_index("text") >= 0
    )


def has_logprobs(field: pa.Field) -> bool:
    """Returns whether the captions in ``field`` have log-probabilities and tokens; an endpoint's answers do not."""
    return bool(field.type.value_type.get_field_index("logprob") >= 0)


def with_scores(columns: pa.Schema) -> pa.Schema:
    """Returns columns of captions with a field ``score`` in each; answers in JSON have none."""
    return pa.schema([_with_score(field) for field in columns])


def _with_score(field: pa.Field) -> pa.Field:
    kind = field.type.value_type
    if kind.get_field_index("value") >= 0:
        return field
    return field.with_type(pa.list_(pa.struct([*kind, pa.field("score", pa.float32())])))


def scored_names(columns: pa.Schema) -> list[str]:
    """Returns the names of the columns of captions with scores."""
    return [field.name for field in columns if is_captions(field) and has_scores(field)]


def has_scores(field: pa.Field) -> bool:
    """Returns whether the captions in ``field`` have scores against their image; null where it cannot be read."""
    return bool(field.type.value_type.get_field_index("score") >= 0)


def row_schema(columns: pa.Schema, kind: str, fingerprint: str) -> pa.Schema:
    """Returns the identity columns followed by a processor's ``columns``; ``kind`` is ``features`` or ``captions``."""
    return stamp(pa.schema([*IDENTITY, *columns]), kind, fingerprint)


def stamp(schema: pa.Schema, kind: str, fingerprint: str) -> pa.Schema:
    """Returns ``schema`` with kind, version and fingerprint in its metadata."""
    metadata = {KIND_KEY: kind, VERSION_KEY: str(SCHEMA_VERSION), FINGERPRINT_KEY: fingerprint}
    return schema.with_metadata(metadata)


def check_version(metadata: Mapping[bytes, bytes] | None, where: str) -> None:
    """Raises StoreError if a newer version, or another program, wrote the file."""
    written = (metadata or {}).get(VERSION_KEY)
    if written is None or not written.isdigit():
        raise StoreError(
            f"{where} is not a captionbeam file; expected {VERSION_KEY.decode()} in its metadata"
        )
    versions.check_version(int(written), SCHEMA_VERSION, where)


def is_grid(field: pa.Field) -> bool:
    """Returns whether ``field`` is a grid column (see ``grid_field``)."""
    return field.metadata is not None and SHAPE_KEY in field.metadata


def scale_name(field: pa.Field) -> str | None:
    """Returns the name of the scale column of a grid column of int8 codes; None for any other column."""
    name = (field.metadata or {}).get(SCALE_KEY)
    return None if name is None else name.decode()


def grid_shape(field: pa.Field) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and dtype of one row of a grid column."""
    shape = tuple(json.loads(field.metadata[SHAPE_KEY]))
    return shape, np.dtype(field.metadata[DTYPE_KEY].decode())


def pack_grid(values: np.ndarray, field: pa.Field) -> pa.Array:
    """Returns ``values`` ``[n, *shape]`` as FixedSizeBinary, without copying if contiguous. Raises ValueError."""
    shape, dtype = grid_shape(field)
    if values.shape[1:] != shape:
        raise ValueError(f"rows of {field.name} have shape {values.shape[1:]}; expected {shape}")
    flat = np.ascontiguousarray(values, dtype=dtype)
    return pa.Array.from_buffers(field.type, len(flat), [None, pa.py_buffer(flat)])


def as_tensor(column: pa.Array, field: pa.Field) -> pa.ExtensionArray:
    """Returns a grid column in FixedSizeBinary as ``fixed_shape_tensor``, without copying."""
    shape, dtype = grid_shape(field)
    size = math.prod(shape)
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(dtype), list(shape))
    start = column.offset * size * dtype.itemsize
    data = column.buffers()[1].slice(start, len(column) * size * dtype.itemsize)
    flat = pa.Array.from_buffers(kind.value_type, len(column) * size, [None, data])
    return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, size))


def from_numpy(values: np.ndarray, field: pa.Field) -> pa.ExtensionArray:
    """Returns ``values`` ``[n, *shape]`` as a tensor column, as from ``as_tensor``."""
    return as_tensor(pack_grid(values, field), field)
