"""Update a store: process new and changed images, delete removed ones, keep unchanged ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from captionbeam.capmodel.specs import complete_spec
from captionbeam.jobs.caption import check_sources
from captionbeam.jobs.encode import add_encoder_options, add_network_options, encoding
from captionbeam.jobs.options.captioners import add_captioner_options, captioning, check_captioner
from captionbeam.jobs.options.decoding import add_decoding_options, decode_options
from captionbeam.jobs.options.features import check_features_source
from captionbeam.jobs.options.recorded import repeat_request, say, settle_store
from captionbeam.jobs.options.shared import (
    add_run_options,
    positive,
    refuse,
    refuse_group,
    require,
    share_or_number,
)
from captionbeam.jobs.options.sources import add_source_options
from captionbeam.jobs.run_on.options import add_launch_options
from captionbeam.jobs.ui.terminal import note
from captionbeam.schemas.fingerprint import changes
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.schemas.store.layout import Snapshot

HELP = """\
  captionbeam refresh features
  captionbeam refresh photos/ --output features --encoder efficientnet_lite0
  captionbeam refresh photos/ --output captions --bundle bundle --beam 3
  captionbeam refresh --features features --output captions --bundle bundle
  captionbeam refresh --features features --output small --reduce components.safetensors

Compares the listing of every SOURCE with the store's newest snapshot and publishes the next one. Images that are new
or changed are done; images that left the listing of their source are deleted (old snapshots keep them), at most
--max-deletes of them; unchanged ones cost a listing. What is not named (sources, encoder or captioner, any option that
decides rows) is as the store's record has it; a SOURCE that is named is listed whole, without a recorded --limit or
--sample. Rows of sources that are not listed stay as they are. With another encoder, bundle or option than the store
was made with, everything is to be done again, which needs --redo. --plan says what would be done and what it costs,
--canary N tries it on N images; neither writes to the store.
"""
BEAM = REPEATS = True
MAX_DELETES = 0.1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``captionbeam refresh``."""
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="where the images are")
    parser.add_argument(
        "--output",
        metavar="STORE",
        help="the store to bring up to date; STORE alone, without SOURCE, means the same",
    )
    add_captioner_options(parser)
    parser.add_argument(
        "--features",
        metavar="STORE",
        help="with --bundle, --reduce or --dtype int8: a features store, instead of SOURCE",
    )
    parser.add_argument(
        "--precision", metavar="NAME", help="as for encode (default auto) or caption (default the bundle's)"
    )
    _add_refresh_options(parser.add_argument_group("refresh"))
    _add_encoding(parser.add_argument_group("encoder"))
    add_decoding_options(parser.add_argument_group("decoding"))
    add_source_options(parser)
    add_run_options(parser)
    add_launch_options(parser)


def _add_refresh_options(group: Any) -> None:
    group.add_argument(
        "--max-deletes",
        type=share_or_number,
        default=MAX_DELETES,
        metavar="N",
        help="publish nothing if more images than this share (of those that the store has of the sources) or number "
        "are gone, or as many rows less would be left (default 0.1)",
    )
    group.add_argument(
        "--retire",
        action="append",
        default=[],
        metavar="SOURCE",
        help="a source that is no more, or has another name now: what no SOURCE lists of its images is deleted",
    )
    group.add_argument(
        "--redo",
        action="store_true",
        help="do all again, where the store was made with another encoder, bundle or option; without it such a refresh "
        "is refused",
    )
    group.add_argument(
        "--ignore-record",
        action="store_true",
        help="take nothing from the store's record: the sources and options are those that are named here",
    )
    group.add_argument("--plan", action="store_true", help="print what would be done, and stop")
    group.add_argument(
        "--canary",
        type=positive,
        metavar="N",
        help="try N images elsewhere, print rate and cost of all, and stop",
    )
    group.add_argument(
        "--scratch",
        metavar="URL",
        help="where --plan and --canary put what goes away afterwards (default: this machine's temporary folder)",
    )


def _add_encoding(group: Any) -> None:
    add_encoder_options(group)
    group.add_argument(
        "--format", metavar="NAME", help="of a new store's shards: parquet or hdf5 (default: the store's)"
    )


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Settles sources and options from the store's record, then plans, previews or performs the refresh."""
    from captionbeam.jobs.run_on.target import settle_job

    settle_store(options)
    newest = layout.newest_snapshot(files.absolute(options.output))
    repeat_request(options, newest)
    check_options(options)
    options.precision = options.precision or (None if writes_captions(options) else "auto")
    target = settle_job(options, beam_args)
    from captionbeam.jobs.bulk.launch import gates_of, launch, lists_all, moved

    work = _work(options)
    retired = [*_retired(options), *moved(options.output, work)]
    _check_sources_of_store(options, work, newest, retired)
    _check_redo(options, work, newest)
    options.format = options.format or (newest.format if newest else "parquet")
    if options.plan or options.canary:
        from captionbeam.jobs.bulk.preview import try_out

        return try_out(work, options, target, retired)
    if not lists_all(options):
        note("--sample and --limit list a part of the images, so none is taken for gone")
    gates = gates_of(options, options.max_deletes)
    return launch(work, options.output, options, target, gates, options.format, "refresh", retired)


def check_options(options: argparse.Namespace) -> None:
    """Raises RequestError for options that exclude each other or have no effect."""
    require(
        bool(options.encoder) != writes_captions(options) or _reduces(options),
        "a refresh needs one of --encoder (for features) and --bundle or --captioner (for captions); expected exactly "
        "one",
    )
    require(
        not (options.plan and options.canary), "--plan and --canary exclude each other; expected one of them"
    )
    if options.plan:
        refuse(options, ("threads",), "with --plan")
    if writes_captions(options):
        check_sources(options)
        check_captioner(options)
        refuse_group(options, _add_encoding, "with --bundle" if options.bundle else "with --captioner")
    else:
        if options.features:
            check_features_source(options, add_network_options)
        else:
            require(bool(options.sources), "no source is named; expected one SOURCE or more")
        refuse_group(options, add_decoding_options, "without --bundle or --captioner")
    require(
        not (options.dry_run and (options.plan or options.canary)),
        "--dry-run excludes --plan and --canary; expected one of them",
    )
    trial = f"with {'--plan' if options.plan else '--canary'}"
    require(
        not (options.totals and (options.plan or options.canary)),
        f"--totals would do nothing {trial}; expected to leave it out",
    )
    idle = options.scratch and not (options.plan or options.canary)
    require(not idle, "--scratch would do nothing without --plan or --canary; expected to leave it out")


def writes_captions(options: argparse.Namespace) -> bool:
    """Whether the refreshed store is one of captions."""
    return bool(options.bundle or options.captioner)


def _reduces(options: argparse.Namespace) -> bool:
    """Whether rows of features are reduced, with neither encoder nor captioner."""
    return bool(options.features) and not options.encoder and not writes_captions(options)


def _work(options: argparse.Namespace) -> Work:
    if writes_captions(options):
        return captioning(options, decode_options(options))
    return encoding(options)


def _retired(options: argparse.Namespace) -> list[str]:
    from captionbeam.pipelines.sources.spec import source_name

    return [source_name(name) for name in options.retire]


def _check_sources_of_store(
    options: argparse.Namespace, work: Work, newest: Snapshot | None, retired: Sequence[str]
) -> None:
    """Raises RequestError for unknown sources in --retire, and if a redo would lose other sources' rows."""
    from captionbeam.pipelines.bulk.compare import sources_ever, sources_of
    from captionbeam.schemas.store.reading import Store

    redo = newest is not None and newest.fingerprint != work.fingerprint
    if newest is None or not (redo or options.retire):
        require(not options.retire, f"{options.output} is new; expected no --retire")
        return
    there = sources_of(Store(files.absolute(options.output), newest))
    for name in _retired(options):
        require(name in there, f"{name} is no source of {options.output}; expected one of {_listed(there)}")
    if not redo:
        return
    kept = {*work.names, *retired, *(sources_ever(work.features) if work.features else ())}
    require(
        there <= kept,
        f"all of {options.output} would be done again, and the rows of {_listed(there - kept)} lost; expected these "
        "sources too, or --retire with each that may go",
    )
    require(
        options.sample == 1 and not options.limit,
        f"all of {options.output} would be done again, but --sample and --limit list a part; expected neither, or "
        "the options that the store was made with",
    )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _check_redo(options: argparse.Namespace, work: Work, newest: Snapshot | None) -> None:
    """Prints why all images are processed again, if they are. Raises RequestError if that was not requested."""
    if newest is None or newest.fingerprint == work.fingerprint:
        return
    images = newest.totals["rows"] + newest.totals["failed"]
    found = changes(complete_spec(newest.spec), complete_spec(work.spec))
    said = ", ".join(f"{name} {old} -> {new}" for name, old, new in found)
    require(
        options.redo or options.plan or bool(options.canary),
        f"all {images:,} images of {options.output} would be done again: {said}; expected --redo to do so (--plan says "
        "what it costs), or the options that the store was made with",
    )
    say(options, f"all {images:,} images of {options.output} are done again: {said}")
