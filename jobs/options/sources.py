"""Options of the image sources, of reading them, and the listings made from them."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options.shared import natural, positive, require, seconds, share
from captionbeam.jobs.ui.terminal import note
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
    from captionbeam.pipelines.sources.spec import SourceSpec
    from captionbeam.schemas.store.reading import Store

PER_SOURCE = (
    "image_root",
    "id_column",
    "uri_column",
    "bytes_column",
    "inventory",
)  # may differ between sources


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of sources and sampling."""
    group = parser.add_argument_group("images")
    group.add_argument(
        "--image-root",
        metavar="URL",
        help="where the images of a COCO file or of a list's relative paths are",
    )
    group.add_argument(
        "--id-column", metavar="NAME", help="column of a list or a Parquet file with the images' ids"
    )
    group.add_argument("--uri-column", metavar="NAME", help="column of a list with the images' URIs")
    group.add_argument(
        "--bytes-column", metavar="NAME", help="column of a Parquet file with the images' bytes"
    )
    group.add_argument(
        "--inventory",
        action="append",
        default=[],
        metavar="URL",
        help="list a SOURCE that is a bucket, or a folder of one, by its inventory: the manifest of a Cloud Storage "
        "inventory report or of an S3 Inventory, or the folder above it, whose newest is taken",
    )
    group.add_argument(
        "--sample",
        type=share,
        default=1.0,
        metavar="RATE",
        help="this share of the images, chosen by a hash of their ids",
    )
    group.add_argument(
        "--seed",
        type=natural,
        default=0,
        metavar="N",
        help="of --sample and --limit; another seed, other images (default 0)",
    )
    group.add_argument(
        "--limit", type=positive, metavar="N", help="at most this many images, the same ones each time"
    )

    add_fetch_options(parser.add_argument_group("reading"))


def add_fetch_options(group: Any) -> None:
    """Adds the options of reading images: size limit, timeout, retries."""
    group.add_argument(
        "--max-image-bytes",
        type=positive,
        default=64 << 20,
        metavar="N",
        help="a longer image is a failure, too_large, and not a worker's memory (default 64 MiB)",
    )
    group.add_argument(
        "--fetch-timeout",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="of one try at reading an image, or a container's range (default 60)",
    )
    group.add_argument(
        "--fetch-tries",
        type=positive,
        default=4,
        metavar="N",
        help="at what may pass by itself: timeouts, 429, 5xx; ever later, at random (default 4)",
    )
    add_private_option(group)


def add_private_option(group: Any) -> None:
    """Adds the option that permits private addresses in lists."""
    group.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="read images that a list has at addresses inside a network (this machine, 10.0.0.0/8, ...), and by any "
        "protocol; else they are failures, denied",
    )


def check_seed(options: argparse.Namespace, drawn: bool = False) -> None:
    """Raises RequestError for a seed without random images (or captions, if ``drawn``)."""
    of_use = drawn or options.sample < 1 or options.limit is not None or options.seed == 0
    wanted = "--sample or --limit" + (", or --method sample" if options.job == "caption" else "")
    require(
        of_use,
        f"--seed {options.seed} would do nothing without {wanted}; expected to leave it out",
    )


def source_options(options: argparse.Namespace) -> Any:
    """Returns the group ``images`` for ``parse_sources``."""
    from captionbeam.pipelines.sources.spec import SourceOptions

    columns = (options.id_column, options.uri_column, options.bytes_column)
    return SourceOptions(*columns, options.image_root, tuple(options.inventory))


def _listings(options: argparse.Namespace) -> list[tuple[str, argparse.Namespace]]:
    """Returns each SOURCE with the options of its own listing, which a store's record has per source."""
    recorded = getattr(options, "listings", None) or [(source, {}) for source in options.sources]
    return [(source, argparse.Namespace(**{**vars(options), **own})) for source, own in recorded]


def parsed_sources(options: argparse.Namespace) -> Sequence[SourceSpec]:
    """Returns the parsed SOURCEs. Raises RequestError, also if the job's --output is inside one of them."""
    from captionbeam.pipelines.sources.buckets.inventory import report_time
    from captionbeam.pipelines.sources.parse import parse_each
    from captionbeam.pipelines.sources.stores import refuse_output

    listings = [(source, source_options(own)) for source, own in _listings(options)]
    specs = parse_each(listings, source_options(options).inventories)
    if options.output:
        refuse_output(options.output, dict.fromkeys(spec.name for spec in specs))
    for name, as_of in dict.fromkeys((spec.name, report_time(spec)) for spec in specs if spec.report):
        note(f"{name} is listed as its inventory of {as_of or 'an unknown time'} has it")
    return specs


def listing(
    options: argparse.Namespace, sources: Sequence[SourceSpec], features: Store | None = None
) -> dict[str, Any]:
    """Returns the fields of ``Work`` that list ``sources`` (or rows of ``features``) and fetch their images."""
    names = tuple(dict.fromkeys(source.name for source in sources))
    if features is not None:
        from captionbeam.pipelines.features.rows import FindRows, fetch_rows

        find: Any = FindRows(features, options.sample, options.seed)
        return {"find": find, "fetch": fetch_rows, "names": names, "features": features}
    from captionbeam.pipelines.bulk.find import ListSources
    from captionbeam.pipelines.fetch.images import fetch

    find = ListSources(sources, options.sample, options.seed)
    read = functools.partial(fetch, options=fetch_options(options))
    return {"find": find, "fetch": read, "names": names, "features": None, "counted": True}


def fetch_options(options: argparse.Namespace) -> FetchOptions:
    """Returns the options of the group ``reading``."""
    from captionbeam.pipelines.fetch import address_guard
    from captionbeam.pipelines.fetch.byte_ranges import FetchOptions

    trusted = _trusted(options)
    return FetchOptions(
        options.max_image_bytes,
        options.fetch_timeout,
        options.fetch_tries,
        allow_private=options.allow_private_addresses,
        trusted=trusted,
        inside=address_guard.inside(address_guard.origins(trusted)),
    )


def _trusted(options: argparse.Namespace) -> tuple[str, ...]:
    """Returns the trusted locations, which the user named: servers of sources, server or folder of the images."""
    from captionbeam.pipelines.fetch.address_guard import origins

    listings = _listings(options) if hasattr(options, "sources") else []
    roots = dict.fromkeys(own.image_root for _, own in listings if own.image_root)
    return (*origins([*(source for source, _ in listings), *roots]), *map(files.absolute, roots))
