"""Which columns of a source are kept beside its images (``--keep-columns``), and each image's values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from captionbeam.pipelines.sources.spec import Columns, SourceSpec
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.formats.kept import (
    MOST_BYTES,
    Types,
    kept_type,
    largest,
    packed,
    packed_cells,
    schema_text,
)

ALL = "all"
COLUMNS = "a list, Parquet, a COCO file or a tar with JSON beside its images"
WITH_COLUMNS = ("list", "parquet", "coco", "tar")


def kept_names(spec: SourceSpec, there: Collection[str]) -> list[str]:
    """Returns which of the columns that are ``there`` are kept: those named, or all but those of ids, URIs and bytes.

    Raises SourceError for a named one that is not there.
    """
    for name in spec.keep:
        if name not in there and name != ALL:
            raise missing_column(f"source {spec.url!r} has no column", name, there, spec.used)
    return _kept(spec, there)


def _kept(spec: SourceSpec, there: Collection[str]) -> list[str]:
    if ALL not in spec.keep:
        return [name for name in spec.keep if name in there]
    own = {"", spec.id_column, spec.uri_column, spec.bytes_column.partition(".")[0]}.difference(spec.keep)
    return [name for name in there if name not in own]


def missing_column(said: str, name: str, there: Collection[str], used: Collection[str]) -> SourceError:
    """Returns the error of a column to keep that is not ``there``. ``used``: the columns that prompts use."""
    expected = f"some of {', '.join(map(repr, there))}" if there else f"a column of {COLUMNS}"
    if name in used:
        return SourceError(
            f"{said} {name!r}, which a prompt uses; expected {expected}, or {{{{{name}}}}} for the text {{{name}}}"
        )
    return SourceError(f"{said} {name!r} to keep; expected {expected}")


def check_has_columns(specs: Sequence[SourceSpec], used: Sequence[str]) -> None:
    """Raises SourceError if prompts use columns and no source is of a kind that has any."""
    if used and not any(spec.kind in WITH_COLUMNS for spec in specs):
        raise missing_column("no source has a column", used[0], (), used)


class Keeper:
    """The kept columns of one container while it is listed: each image's values as text, and all columns' types."""

    def __init__(
        self, spec: SourceSpec, names: Sequence[str] | None = None, schema: pa.Schema | None = None
    ) -> None:
        """``names``: the columns to keep, where they are known; ``schema``: their types, where these are known."""
        self._spec, self._names, self._typed = spec, names, schema is not None
        known = [(name, pa.null()) for name in names or ()]
        if schema is not None:
            known = [(name, kept_type(schema.field(name).type)) for name in names or ()]
        self._types = Types(pa.schema(known))

    def text(self, values: Mapping[str, Any], place: str, cells: bool = False) -> str:
        """Returns the kept ones of an image's ``values`` as text. ``cells``: they are cells of CSV.

        ``place`` says where they stand. Raises SourceError if they are longer than MOST_BYTES.
        """
        if not self._spec.keep:
            return ""
        names = _kept(self._spec, values) if self._names is None else self._names
        kept = {name: values.get(name) for name in names}
        text = packed_cells(kept) if cells else packed(kept)
        if len(text) > MOST_BYTES // 4 and (size := len(text.encode())) > MOST_BYTES:
            name, most = largest(text)
            raise SourceError(
                f"source {self._spec.url!r}: {place} has {size:,} bytes in its kept columns, {most:,} of them in "
                f"{name!r}; expected at most {MOST_BYTES:,}: name fewer columns in --keep-columns"
            )
        if text and not self._typed:
            self._types.see(text)
        return text

    def columns(self) -> Iterator[Columns]:
        """Yields names and types of the kept columns, if any are kept; call it once all images are listed."""
        if self._spec.keep:
            yield Columns(schema_text(self._types.schema()))
