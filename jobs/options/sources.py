"""Options of the image sources and of reading images, and the listings made from them."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options import inputs
from captionbeam.jobs.ui.terminal import note
from captionbeam.schemas.counts import counted
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import (
    NAME,
    NATURAL,
    POSITIVE,
    SECONDS,
    SHARE,
    STORE,
    URL,
    one_of,
    option,
    part_of,
    text,
)
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    import pyarrow as pa

    from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
    from captionbeam.pipelines.sources.spec import SourceSpec
    from captionbeam.schemas.store.reading import Store


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How images are read."""

    GROUP = "reading images"

    max_image_bytes: int = option(
        64 << 20,
        "largest image file; a larger one becomes a failure with the code too_large (default 64 MiB)",
        POSITIVE,
        role="listing",
    )
    fetch_timeout: float = option(
        60.0, "timeout of one attempt to read an image or a range of a container", SECONDS
    )
    fetch_tries: int = option(
        4,
        "attempts where an error may be temporary (timeout, 429, 5xx), with increasing random pauses",
        POSITIVE,
    )
    allow_private_addresses: bool = option(
        False,
        "read images that a list has at private addresses (this machine, 10.0.0.0/8, ...) and by any protocol; "
        "otherwise they become failures with the code denied",
        role="listing",
    )


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which part of the sources' images is processed."""

    GROUP = "images"

    sample: float = option(1.0, "process this share of the images, selected by a hash of their ids", SHARE,
                           common=True, role="part")  # fmt: skip
    seed: int = option(0, "seed of --sample and --limit, and of --method sample", NATURAL, role="part")
    limit: int | None = option(
        None, "process at most this many images, the same ones each time", POSITIVE, common=True, role="part"
    )

    @property
    def lists_all(self) -> bool:
        """Whether the listing covers the sources completely."""
        return self.sample == 1 and not self.limit


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Part, ReadingOptions):
    """Which images, and how they are listed.

    listings: each source with its own values of the options that may differ between sources, from a store's record.
    others: the columns to keep are from a record that has further sources, which may have them.
    """

    GROUP = "images"

    sources: tuple[str, ...] = option(
        (),
        "a folder, glob, zip, tar, Parquet file with images, list of URIs, or COCO annotation file; a path or URL",
        text("SOURCE"),
        positional=True,
        common=True,
        role="listing",
        instead_of=("features",),
        opens=inputs.source,
    )
    features: str | None = option(
        None,
        "a features store instead of SOURCE",
        STORE,
        common=True,
        role="rows",
        location=True,
        instead_of=("sources",),
        opens=inputs.store,
    )
    image_root: str | None = option(
        None,
        "the location of the images of a COCO file, or of relative paths in a list",
        URL,
        common=True,
        role="source",
        location=True,
    )
    id_column: str | None = option(
        None,
        "column of a list or Parquet file with image ids (default: image_id, id, key or __key__; case, spaces, - and _ "
        "make no difference)",
        NAME,
        role="source",
    )
    uri_column: str | None = option(
        None,
        "column of a list with URIs (default: uri, url, image_url, path, file_name, ..., else the only one that holds "
        "images)",
        NAME,
        role="source",
        instead_of=("bytes_column",),
    )
    bytes_column: str | None = option(
        None, "column of a Parquet file with image bytes", NAME, role="source", instead_of=("uri_column",)
    )
    on_duplicate: str = option(
        "error",
        "what to do where two images have one id: error, or take the first (in the order of the sources, then of rows)",
        one_of("error", "first"),
        role="listing",
    )
    keep_columns: tuple[str, ...] = option(
        (),
        "columns of a list, Parquet file, COCO file, or WebDataset's JSON to keep beside the rows, with their types: "
        "all of them, or none any more; those that a --prompt uses are kept in any case",
        text("NAME,...|all|none"),
        split=True,
        common=True,
        role="source",
    )
    keep_exif: bool = option(
        False,
        "keep what each image file says of itself: width, height, format, taken, taken_offset, orientation, camera",
        common=True,
        role="source",
    )
    keep_gps: bool = option(
        False,
        "keep that, and the place where the image was taken, latitude and longitude, which may be somebody's home",
        role="source",
    )
    adopt_ids: bool = option(
        False,
        "images that the store has under other ids take over their rows, copied where the content is the same",
    )
    inventory: tuple[str, ...] = option(
        (),
        "list a SOURCE that is a bucket, or a folder of one, from its inventory: the manifest of a Cloud Storage "
        "inventory report or of an S3 Inventory, or the folder above it (the newest is used); repeatable",
        URL,
        repeated=True,
        role="source",
        location=True,
        opens=inputs.file,
    )
    listings: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    others: bool = False

    @property
    def columns_to_keep(self) -> tuple[str, ...]:
        """The named columns, or ``("all",)``; empty for ``none``."""
        return () if self.keep_columns == ("none",) else self.keep_columns

    def retired_names(self) -> list[str]:
        """Returns the names of sources that no longer exist."""
        return []


def _listings(options: SourceOptions) -> list[tuple[str, SourceOptions]]:
    """Returns each SOURCE with the options of its own listing."""
    listings = options.listings or tuple((source, dict[str, Any]()) for source in options.sources)
    plain = dataclasses.replace(options, listings=()) if options.listings else options
    return [(source, dataclasses.replace(plain, **own) if own else plain) for source, own in listings]


def _listing_options(options: SourceOptions, used: Sequence[str] = ()) -> Any:
    from captionbeam.pipelines.sources.spec import SourceOptions as ListingOptions

    columns = (options.id_column, options.uri_column, options.bytes_column)
    return ListingOptions(
        *columns, options.image_root, options.inventory, options.columns_to_keep, tuple(used), options.others
    )


def parsed_sources(
    options: SourceOptions, output: str | None, used: Sequence[str] = ()
) -> Sequence[SourceSpec]:
    """Returns the parsed SOURCEs. Raises RequestError, also if the job's ``output`` is inside one of them.

    ``used``: the columns that prompts use, which are kept too.
    """
    from captionbeam.pipelines.sources.buckets.inventory import report_time
    from captionbeam.pipelines.sources.parse import parse_each
    from captionbeam.pipelines.sources.stores import refuse_output
    from captionbeam.pipelines.sources.tables.columns import URI_COLUMNS, find_first
    from captionbeam.pipelines.sources.tables.keeper import COLUMNS

    listings = [(source, _listing_options(own, used)) for source, own in _listings(options)]
    specs = parse_each(listings, _listing_options(options).inventories)
    if output:
        refuse_output(output, dict.fromkeys(spec.name for spec in specs))
    given = {name: own.uri_column for name, own in listings}
    for name, column in dict.fromkeys((spec.name, spec.uri_column) for spec in specs):
        if column and not given.get(name) and not find_first(URI_COLUMNS, [column]):
            note(
                f"{name}: the URIs are in the column {column!r}, the only one that holds images",
                to_error=True,
            )
    kept = [own.columns_to_keep for _, own in _listings(options)]
    if any(kept) and not options.others and not any(spec.keep for spec in specs):
        note(f"no column is kept, as none of the sources is {COLUMNS}", to_error=True)
    if output:
        _say_other_ids(specs, output, options)
    for name, as_of in dict.fromkeys((spec.name, report_time(spec)) for spec in specs if spec.report):
        note(f"{name} is listed from its inventory of {as_of or 'an unknown time'}")
    return specs


def _say_other_ids(specs: Sequence[SourceSpec], output: str, options: SourceOptions) -> None:
    """Says which sources name images by other ids than the store does, if it has a snapshot."""
    from captionbeam.jobs.options.recorded import source_flags
    from captionbeam.pipelines.bulk.adopt import find_other_ids
    from captionbeam.schemas import Store
    from captionbeam.schemas.store import layout

    newest = layout.newest_snapshot(files.absolute(output))
    if newest is None:
        return
    for found in find_other_ids(Store(files.absolute(output), newest), specs):
        goes = found.there in {found.source, *options.retired_names()}
        if goes and options.adopt_ids:
            continue
        origin = "" if found.there == found.source else f" from {found.there}"
        said = "processed again under the new ids; with --adopt-ids, their rows are copied"
        if not goes:
            words = ["captionbeam", "refresh", found.source, "--output", output, "--retire", found.there]
            again = shlex.join([*words, "--adopt-ids", *source_flags(newest, found.there)])
            said = f"added a second time; if it takes the place of {found.there}: {again}"
        note(
            f"{output} has {counted(found.images, 'image')} of {found.source} under other ids{origin} "
            f"(now {found.new!r}, there {found.old!r}): they are {said}",
            to_error=True,
        )


def listing(
    options: SourceOptions, sources: Sequence[SourceSpec], features: Store | None = None
) -> dict[str, Any]:
    """Returns the fields of ``Work`` that list ``sources`` (or rows of ``features``) and fetch their images.

    Raises RequestError for columns to keep that ``features`` do not have.
    """
    names = tuple(dict.fromkeys(source.name for source in sources))
    if features is not None:
        from captionbeam.pipelines.features.rows import FindRows, fetch_rows

        kept = kept_of(features, options.columns_to_keep, options.keep_gps)
        find: Any = FindRows(features, options.sample, options.seed or 0, kept)
        return {
            "find": find,
            "fetch": fetch_rows,
            "names": names,
            "features": features,
            "part": replace(part_of(Part, options), seed=options.seed or 0),
            "keep": tuple(kept.names),
            "kept": kept,
            "adopts": options.adopt_ids,
        }
    from captionbeam.pipelines.bulk.find import ListSources
    from captionbeam.pipelines.bulk.listing_record import seen_columns
    from captionbeam.pipelines.sources.images import fetch

    find = ListSources(sources, options.sample, options.seed or 0)
    read = functools.partial(fetch, options=fetch_options(options))
    part = replace(part_of(Part, options), seed=options.seed or 0)
    return {
        "find": find,
        "fetch": read,
        "names": names,
        "features": None,
        "counted": True,
        "part": part,
        "first": options.on_duplicate == "first",
        "adopts": options.adopt_ids,
        "keep": tuple(dict.fromkeys(name for source in sources for name in source.keep)),
        "seen": seen_columns(sources),
        "exif": _exif(options),
    }


def kept_of(features: Store, named: Sequence[str], place: bool = False) -> pa.Schema:
    """Returns the ``named`` ones (or ``all``) of a store's kept columns. Raises RequestError for those it lacks.

    They may have their names in the input, by which they are kept again, or those that readers of the store see. What
    image files say of themselves is among them; ``all`` includes where an image was taken only with ``place``.
    """
    import pyarrow as pa

    from captionbeam.pipelines.features.rows import carried_columns
    from captionbeam.pipelines.sources.tables.columns import find_named
    from captionbeam.pipelines.sources.tables.keeper import ALL, missing_column
    from captionbeam.pipelines.workers.exif import PLACE

    there, own = carried_columns(features), features.input_columns.names
    shown = dict(zip(features.kept.names, own, strict=False)) | {name: name for name in there.names}
    if named and not len(there):
        raise RequestError(f"{features.url} has no kept columns; expected no --keep-columns")
    if tuple(named) == (ALL,):
        hidden = {*PLACE.names} - {*own} if not place else set[str]()
        return pa.schema([field for field in there if field.name not in hidden])
    found = [find_named(name, shown) for name in named]
    if "" in found:
        name = named[found.index("")]
        raise RequestError(str(missing_column(f"{features.url} has no column", name, there.names, ())))
    wanted = {shown[name] for name in found}
    return pa.schema([field for field in there if field.name in wanted])


def _exif(options: SourceOptions) -> tuple[str, ...]:
    """Returns what is kept of each image file: of those of all sources, if it is kept for one."""
    from captionbeam.pipelines.workers.exif import ABOUT, PLACE

    listings = [own for _, own in _listings(options)]
    gps = any(own.keep_gps for own in listings)
    about = ABOUT.names if gps or any(own.keep_exif for own in listings) else []
    return (*about, *(PLACE.names if gps else []))


def fetch_options(options: ReadingOptions) -> FetchOptions:
    """Returns the options of workers that read images."""
    from captionbeam.pipelines.fetch import address_guard
    from captionbeam.pipelines.fetch.byte_ranges import FetchOptions

    trusted = _trusted(options) if isinstance(options, SourceOptions) else ()
    return FetchOptions(
        options.max_image_bytes,
        options.fetch_timeout,
        options.fetch_tries,
        allow_private=options.allow_private_addresses,
        trusted=trusted,
        inside=address_guard.inside(address_guard.origins(trusted)),
    )


def _trusted(options: SourceOptions) -> tuple[str, ...]:
    """Returns the locations that the user named: servers of sources, server or folder of the images."""
    from captionbeam.pipelines.fetch.address_guard import origins

    listings = _listings(options)
    roots = dict.fromkeys(own.image_root for _, own in listings if own.image_root)
    return (*origins([*(source for source, _ in listings), *roots]), *map(files.absolute, roots))
