"""Parquet files with a column of image bytes: binary, or Hugging Face's struct of bytes and path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionbeam.pipelines.fetch.urls import printable
from captionbeam.pipelines.sources import access
from captionbeam.pipelines.sources.spec import Columns, SourceSpec, relative
from captionbeam.pipelines.sources.tables import columns
from captionbeam.pipelines.sources.tables.keeper import Keeper, kept_names
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.formats.kept import plain_values
from captionbeam.schemas.records import ImageRef

BYTES_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "img", "content")
ID_COLUMNS = ("image_id", "id", "__key__", "key", "file_name", "filename", "name")
_BLOCK = 64 << 10  # footers are small
_LISTED_ROWS = 1 << 16
_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_NAMES = (*_TEXTS, pa.types.is_integer)
LARGE_GROUP = 128 << 20  # bytes; larger row groups are read once, in order, and never kept whole


def list_parquet(spec: SourceSpec) -> Iterator[ImageRef | Columns]:
    """Yields one image per row, then the kept columns. Its id is the id column, else ``FILE#ROW``.

    Reads only the pages of the ids and of the kept columns.
    """
    version = access.file_version(spec.url)
    with opened(spec.url) as parquet:
        schema = parquet.schema_arrow
        spec = fitted(spec, schema)
        names = kept_names(spec, schema.names)
        keeper, first = Keeper(spec, names, schema), 0
        for group in range(parquet.num_row_groups):
            size = bytes_per_row(parquet.metadata, group)
            pairs = zip(
                _ids(parquet, group, first, spec), _rows(parquet, group, [*names.values()]), strict=True
            )
            for row, (image_id, values) in enumerate(pairs):
                yield ImageRef(
                    image_id=image_id,
                    uri=spec.url,
                    source=spec.name,
                    version=None if version is None else f"{version}:{first + row}",
                    kind="parquet",
                    offset=group,
                    length=row,
                    size=size,
                    column=spec.bytes_column,
                    columns=keeper.text(values, f"row {first + row + 1}"),
                )
            first += parquet.metadata.row_group(group).num_rows
        yield from keeper.columns()


def bytes_per_row(metadata: pq.FileMetaData, group: int) -> int:
    """Returns the average uncompressed size of a row in all columns.

    Statistics of a single column are not used, because pyarrow aborts on them if the footer is damaged.
    """
    found = metadata.row_group(group)
    return int(max(0, found.total_byte_size) // max(1, found.num_rows))


@contextmanager
def opened(url: str) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file. Raises SourceError if it is not Parquet or is damaged, also while it is read."""
    with access.open_container(url, _BLOCK) as stream:
        try:
            yield pq.ParquetFile(stream)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
            if not is_damage(err):
                raise
            raise SourceError(f"source {url!r} is not a readable Parquet file: {err}") from err


def is_damage(error: Exception) -> bool:
    """Returns whether ``error`` is pyarrow's for invalid content. Some of these are OSErrors without an errno."""
    return not isinstance(error, OSError) or (type(error) is OSError and error.errno is None)


def fitted(spec: SourceSpec, schema: pa.Schema) -> SourceSpec:
    """Returns ``spec``, which has the columns of its source's first file, with the columns of a file of ``schema``.

    Columns of images that the file lacks are replaced if both have usual names. Raises SourceError if there is none.
    """
    if spec.bytes_column and not _is_any(_type_at(schema, spec.bytes_column), _BYTES):
        own = find_bytes_column(schema) if _is_usual(spec.bytes_column, BYTES_COLUMNS) else ""
        spec = spec._replace(bytes_column=own or _refuse(spec, schema, spec.bytes_column))
    if spec.uri_column and _type_at(schema, spec.uri_column) is None:
        uris = columns.URI_COLUMNS
        own = find_column(schema, uris) if _is_usual(spec.uri_column, uris) else ""
        spec = spec._replace(uri_column=own or _refuse(spec, schema, spec.uri_column))
    if spec.id_column and _type_at(schema, spec.id_column) is None:
        if spec.needs_ids:
            _refuse(spec, schema, spec.id_column)
        usual = ID_COLUMNS if spec.kind == "parquet" else columns.ID_COLUMNS
        spec = spec._replace(id_column=find_column(schema, usual))
    return spec


def _is_usual(column: str, usual: Sequence[str]) -> bool:
    return bool(columns.find_first(usual, [column.partition(".")[0]]))


def _refuse(spec: SourceSpec, schema: pa.Schema, column: str) -> NoReturn:
    raise SourceError(
        f"source {spec.url!r} has the columns {columns.named(schema.names)}; expected {column!r}, as in the first file "
        f"of {spec.name!r}"
    )


def find_bytes_column(schema: pa.Schema, wanted: str | None = None) -> str:
    """Returns the path of the image bytes (``image``, or ``image.bytes`` in a struct); '' if there is none."""
    for name in BYTES_COLUMNS if wanted is None else (wanted,):
        exact = [name] if _type_at(schema, name) is not None else []
        for path in exact or [columns.find_named(name, schema.names)]:
            if _is_any(_type_at(schema, path), _BYTES):
                return path
            if _type_at(schema, f"{path}.bytes") is not None:
                return f"{path}.bytes"
    return ""


def find_column(schema: pa.Schema, candidates: Sequence[str]) -> str:
    """Returns the first of ``candidates`` that is a column of text or integers; '' if there is none."""
    names = [field.name for field in schema if _is_any(field.type, _NAMES)]
    for name in candidates:
        if _is_any(_type_at(schema, name), _NAMES):
            return name
        if found := columns.find_named(name, names):
            return found
    return ""


def find_images(file: pq.ParquetFile) -> list[str]:
    """Returns the columns of text that hold nothing but locations of images in the first rows."""
    names = [field.name for field in file.schema_arrow if _is_any(field.type, _TEXTS)]
    if not names:
        return []
    batch = next(file.iter_batches(columns.FIRST_ROWS, columns=names), None)
    return columns.of_images([] if batch is None else batch.to_pylist())


def _is_any(kind: pa.DataType | None, tests: Sequence[Callable[[pa.DataType], bool]]) -> bool:
    return kind is not None and any(test(kind) for test in tests)


def column_at(table: pa.Table | pa.RecordBatch, path: str) -> pa.ChunkedArray | pa.Array:
    """Returns the column ``path`` of a table read with that column only; ``a.b`` is a field of struct ``a``."""
    name, _, inside = path.partition(".")
    if path in table.schema.names:
        return table.column(path)
    return pc.struct_field(table.column(name), inside.split("."))


def _ids(parquet: pq.ParquetFile, group: int, first: int, spec: SourceSpec) -> Iterator[str]:
    stem = printable(relative(spec.url, spec.root))
    if not spec.id_column:
        rows = parquet.metadata.row_group(group).num_rows
        yield from (f"{stem}#{first + row}" for row in range(rows))
        return
    row = first
    for batch in parquet.iter_batches(_LISTED_ROWS, row_groups=[group], columns=[spec.id_column]):
        for value in column_at(batch, spec.id_column).to_pylist():
            if spec.needs_ids and (value is None or not str(value).strip()):
                raise columns.no_id(spec, row + 1)
            yield f"{stem}#{row}" if value is None else str(value)
            row += 1


def _rows(parquet: pq.ParquetFile, group: int, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yields the values of the columns ``names`` of each row."""
    if not names:
        yield from ({} for _ in range(parquet.metadata.row_group(group).num_rows))
        return
    for batch in parquet.iter_batches(_LISTED_ROWS, row_groups=[group], columns=list(names)):
        for values in zip(*(plain_values(column) for column in batch.columns), strict=True):
            yield dict(zip(batch.schema.names, values, strict=True))


def _type_at(schema: pa.Schema, path: str) -> pa.DataType | None:
    if path in schema.names:
        return schema.field(path).type
    name, _, inside = path.partition(".")
    if not inside or name not in schema.names or not pa.types.is_struct(schema.field(name).type):
        return None
    struct = schema.field(name).type
    index = struct.get_field_index(inside)
    return struct.field(index).type if index >= 0 else None
