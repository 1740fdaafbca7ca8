"""Which columns of a source are kept beside its images (``--keep-columns``), and each image's values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from captionbeam.pipelines.sources.spec import Columns, SourceSpec
from captionbeam.pipelines.sources.tables.columns import find_named
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


def kept_names(spec: SourceSpec, there: Collection[str]) -> list[str]:
    """Returns which of the columns that are ``there`` are kept: those named, or all but those of ids, URIs and bytes.

    Raises SourceError for a named one that is not there.
    """
    if tuple(spec.keep) != (ALL,):
        for name in spec.keep:
            if name not in there:
                expected = ", ".join(map(repr, there)) or "columns"
                raise SourceError(
                    f"source {spec.url!r} has no column {name!r} to keep; expected some of {expected}"
                )
        return list(spec.keep)
    used = {"", spec.id_column, spec.uri_column, spec.bytes_column.partition(".")[0]}
    return [name for name in there if name not in used]


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
        names = self._names
        if names is None:
            names = kept_names(self._spec, values) if tuple(self._spec.keep) == (ALL,) else self._spec.keep
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
