"""Record of a listing: images and ignored files by source, written once below the run's plan.

The listing of each container is summed where it is read, so only one small element per container is combined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection

from captionbeam.pipelines.bulk.kept_schema import write_kept_schema
from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.sources.spec import IMAGE_SUFFIXES, SourceSpec, suffix
from captionbeam.pipelines.sources.tables.keeper import ALL, COLUMNS, missing_column
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.counts import counted
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.formats.kept import Types, schema_of, schema_text
from captionbeam.schemas.storage import files

RECORD = "listing.json"
NO_ENDING, FOLDER, OTHER = "no ending", "folder", "other"
_LONGEST_ENDING, _MOST_ENDINGS = 12, 100


class Listing(NamedTuple):
    """Listing of one container or source: number of images before sampling, and of ignored files by ending.

    ``columns``: names and types of the kept columns, as from ``schema_text``; '' if there are none.
    """

    source: str
    images: int
    passed_over: Mapping[str, int]
    columns: str = ""


def ending(name: str) -> str:
    """Returns the ending under which an ignored file is counted, such as ``.svg``.

    ``folder`` counts names with a final slash. ``other`` counts files that are no images despite their ending, such
    as macOS's ``._a.jpg``, and very long endings.
    """
    if name.endswith("/"):
        return FOLDER
    found = suffix(name)
    if not found:
        return NO_ENDING
    return OTHER if found in IMAGE_SUFFIXES or len(found) > _LONGEST_ENDING else found


def sum_listings(listings: Iterable[Listing]) -> list[Listing]:
    """Returns one listing per source, by name. The rarest of more than 100 endings are counted as ``other``."""
    images: Counter[str] = Counter()
    passed_over: dict[str, Counter[str]] = {}
    types: dict[str, Types] = {}
    for one in listings:
        images[one.source] += one.images
        passed_over.setdefault(one.source, Counter()).update(one.passed_over)
        types.setdefault(one.source, Types()).add(schema_of(one.columns))
    return [
        Listing(name, images[name], _bounded(passed_over[name]), schema_text(types[name].schema()))
        for name in sorted(passed_over)
    ]


def _bounded(counts: Counter[str]) -> dict[str, int]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept, rest = ordered[:_MOST_ENDINGS], ordered[_MOST_ENDINGS:]
    summed = Counter(dict(kept))
    summed[OTHER] += sum(count for _, count in rest)
    return dict(+summed)


def passed_over_line(listings: Iterable[Listing]) -> str:
    """Returns ``3 files passed over (2 .svg, 1 .txt)``, ``1 file passed over (.svg)``, or '' if there are none."""
    counts = sum((Counter(one.passed_over) for one in listings), Counter())
    if not counts:
        return ""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kinds = ordered[0][0] if len(ordered) == 1 else ", ".join(f"{count:,} {kind}" for kind, count in ordered)
    return f"{counted(counts.total(), 'file')} passed over ({kinds})"


def check_listed(listings: Sequence[Listing], names: Sequence[str]) -> None:
    """Raises SourceError if one of the sources ``names`` has no image."""
    by_name = {one.source: one for one in listings}
    for name in names:
        found = by_name.get(name, Listing(name, 0, {}))
        if not found.images:
            said = passed_over_line([found])
            raise SourceError(
                f"source {name!r} holds no image{f': {said}' if said else ''}; expected one image or more"
            )


def seen_columns(sources: Iterable[SourceSpec]) -> tuple[str, ...]:
    """Returns the columns that were seen in the sources when they were parsed."""
    return tuple(dict.fromkeys(name for source in sources for name in source.header))


def write_listing(
    listings: Sequence[Listing],
    run: Run,
    names: Sequence[str] = (),
    keep: Sequence[str] = (),
    seen: Sequence[str] = (),
) -> str:
    """Writes the listing, and the types of kept columns, if the files do not exist yet. Returns the listing's URL.

    Raises SourceError if one of the sources ``names`` has no image, or if none has one of the columns to ``keep``.
    """
    url, summed = files.join(run.folder, RECORD), sum_listings(listings)
    record = [{"source": one.source, "images": one.images, "passed_over": one.passed_over} for one in summed]
    files.create(url, files.json_bytes({"sources": record}))
    check_listed(read_listing(run), names)
    if run.keeps:
        types = Types()
        for one in summed:
            types.add(schema_of(one.columns))
        check_columns(types.schema(), keep, run.used_columns, seen)
        write_kept_schema(run, types.schema())
    return url


def check_columns(
    found: pa.Schema, keep: Sequence[str], used: Collection[str] = (), seen: Sequence[str] = ()
) -> None:
    """Raises SourceError if no source has one of the columns to ``keep``, or if there are none for ``all``.

    ``used``: those of them that prompts use. ``seen``: names of further columns, for the error.
    """
    for name in keep:
        if name != ALL and name not in found.names:
            there = [other for other in dict.fromkeys([*found.names, *seen]) if other != name]
            raise missing_column("no source has a column", name, there, used)
    if not len(found):
        besides = f" besides ids and URIs (there are {', '.join(map(repr, seen))})" if seen else ""
        raise SourceError(
            f"no source has columns to keep{besides}; expected {'others in ' * bool(besides)}{COLUMNS}"
        )


def read_listing(run: Run) -> list[Listing]:
    """Returns the listing from ``write_listing``; empty for a run that listed no source."""
    try:
        return [Listing(**one) for one in files.read_json(files.join(run.folder, RECORD))["sources"]]
    except FileNotFoundError:
        return []


class RecordListing(beam.PTransform[PCollection[Listing], PCollection[str]]):
    """Takes the containers' ``Listing``s and returns one element after writing the record to the run's folder.

    Raises SourceError if one of the sources ``names`` has no image, or if none has one of the columns to ``keep``.
    """

    def __init__(
        self, run: Run, names: Sequence[str], keep: Sequence[str] = (), seen: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._run = run
        self._named = {"names": list(names), "keep": list(keep), "seen": list(seen)}

    def expand(self, listings: PCollection[Listing]) -> PCollection[str]:
        write = beam.Map(across_workers(write_listing), run=self._run, **self._named)
        return listings | "SumListings" >> beam.CombineGlobally(sum_all) | "WriteListing" >> write


def sum_all(listings: Iterable[Listing | Sequence[Listing]]) -> list[Listing]:
    """Like ``sum_listings``, also for partial sums, as a combiner receives both."""
    flat: list[Listing] = []
    for one in listings:
        flat.extend([one] if isinstance(one, Listing) else one)
    return sum_listings(flat)
