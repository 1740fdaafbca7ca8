"""Which columns of a source are kept beside its images (``--keep-columns``), and each image's values."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from captionbeam.pipelines.sources.spec import Columns, SourceSpec
from captionbeam.pipelines.sources.tables.columns import find_named
from captionbeam.schemas.errors import PromptColumnError, SourceError
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
MOST_NAMES = 12  # in a sentence
VARYING = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")  # of which every line may have other columns


def kept_names(spec: SourceSpec, there: Collection[str]) -> dict[str, str]:
    """Returns the kept ones of the columns that are ``there``, by the names under which they are kept: those named, or
    all but those of ids, URIs and bytes.

    Raises SourceError for one that a prompt uses and that is not there.
    """
    for name in spec.used:
        if not _written(name, there):
            raise missing_column(f"source {spec.url!r} has no column", name, there, spec.used)
    return _kept(spec, there)


def _kept(spec: SourceSpec, there: Collection[str]) -> dict[str, str]:
    names = [name for name in spec.keep if name != ALL]
    found = {name: _written(name, there) if name in spec.used else find_named(name, there) for name in names}
    kept = {name: own for name, own in found.items() if own and own in there}
    if ALL in spec.keep:
        hidden = {"", spec.id_column, spec.uri_column, spec.bytes_column.partition(".")[0], *kept.values()}
        kept |= {name: name for name in there if name not in hidden}
    return kept


def _written(name: str, there: Collection[str]) -> str:
    """Returns the column ``name`` as ``there`` has it: its accents may be letters of their own (NFD). Else ''."""
    if name in there:
        return name
    return next((own for own in there if own and unicodedata.normalize("NFC", own) == name), "")


def settle_columns(
    specs: Sequence[SourceSpec], used: Collection[str], may_lack: bool = False
) -> list[SourceSpec]:
    """Returns ``specs`` with the names under which columns are kept: as named if a source has a column of exactly that
    name, else as in the first source that has one which differs by case and separators.

    ``used``: the columns that prompts use. Raises SourceError for a named column that no source can have, unless they
    ``may_lack`` it, and if prompts use columns and no source is of a kind that has any.
    """
    if used and not any(spec.kind in WITH_COLUMNS for spec in specs):
        raise missing_column("no source has a column", next(iter(used)), (), used)
    headers = list(dict.fromkeys(tuple(spec.header) for spec in specs))
    names = dict.fromkeys(name for spec in specs for name in spec.keep if name != ALL)
    settled = {name: name if name in used else _column_in(headers, name) for name in names}
    known = not any(spec.kind == "tar" or spec.url.lower().endswith(VARYING) for spec in specs)
    for name, found in settled.items() if known else ():
        if may_lack and not found:
            specs = [spec._replace(keep=[one for one in spec.keep if one != name]) for spec in specs]
        elif not found:
            said = "no source has a column" if len(specs) > 1 else f"source {specs[0].url!r} has no column"
            raise missing_column(said, name, dict.fromkeys(chain.from_iterable(headers)), used)
    return [
        spec._replace(keep=tuple(dict.fromkeys(settled.get(name) or name for name in spec.keep)))
        for spec in specs
    ]


def _column_in(headers: Sequence[Sequence[str]], name: str) -> str:
    if any(name in header for header in headers):
        return name
    return next((found for header in headers if (found := find_named(name, header))), "")


def missing_column(said: str, name: str, there: Collection[str], used: Collection[str]) -> SourceError:
    """Returns the error of a column to keep that is not ``there``. ``used``: the columns that prompts use."""
    expected = f"some of {_closest(name, there)}" if there else f"a column of {COLUMNS}"
    near = find_named(name, there) or next(iter(difflib.get_close_matches(name, list(there), 1)), "")
    hint = f"; did you mean {near!r}?" if near else ""
    if name in used:
        text = f", or {{{{{name}}}}} for the text {{{name}}}"
        return PromptColumnError(f"{said} {name!r}, which a prompt uses; expected {expected}", text, hint)
    return SourceError(f"{said} {name!r} to keep; expected {expected}{hint}")


def _closest(name: str, there: Collection[str]) -> str:
    """Returns the names that are ``there``; of more than MOST_NAMES those closest to ``name``."""
    if len(there) <= MOST_NAMES:
        return ", ".join(map(repr, there))
    close = difflib.get_close_matches(name, list(there), MOST_NAMES, 0)
    return f"{len(there):,} columns such as {', '.join(map(repr, close))}"


class Keeper:
    """The kept columns of one container while it is listed: each image's values as text, and all columns' types."""

    def __init__(
        self, spec: SourceSpec, names: Mapping[str, str] | None = None, schema: pa.Schema | None = None
    ) -> None:
        """``names``: ``kept_names``, where the columns are known; ``schema``: their types, where these are known."""
        self._spec, self._names, self._typed = spec, names, schema is not None
        self._keys: tuple[str, ...] = ()
        self._found: Mapping[str, str] = {}
        known = [(name, pa.null()) for name in names or ()]
        if schema is not None:
            known = [(name, kept_type(schema.field(own).type)) for name, own in (names or {}).items()]
        self._types = Types(pa.schema(known))

    def text(self, values: Mapping[str, Any], place: str, cells: bool = False) -> str:
        """Returns the kept ones of an image's ``values`` as text. ``cells``: they are cells of CSV.

        ``place`` says where they stand. Raises SourceError if they are longer than MOST_BYTES.
        """
        if not self._spec.keep:
            return ""
        names = self._names_in(values) if self._names is None else self._names
        kept = {name: values.get(own) for name, own in names.items()}
        text = packed_cells(kept) if cells else packed(kept)
        if len(text) > MOST_BYTES // 4 and (size := len(text.encode())) > MOST_BYTES:
            name, most = largest(text)
            used = name in self._spec.used
            whose = f"the prompt's column {name!r}" if used else repr(name)
            instead = "shorten it in the source" if used else "name fewer columns in --keep-columns"
            raise SourceError(
                f"source {self._spec.url!r}: {place} has {size:,} bytes in its kept columns, {most:,} of them in "
                f"{whose}; expected at most {MOST_BYTES:,}: {instead}"
            )
        if text and not self._typed:
            self._types.see(text)
        return text

    def _names_in(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Returns ``kept_names`` of one row. Those of the row before it are used again, as most rows are alike."""
        keys = tuple(values)
        if keys != self._keys:
            self._keys, self._found = keys, _kept(self._spec, values)
        return self._found

    def columns(self) -> Iterator[Columns]:
        """Yields names and types of the kept columns, if any are kept; call it once all images are listed."""
        if self._spec.keep:
            yield Columns(schema_text(self._types.schema()))
