"""Update a store: process new and changed images, delete removed ones, keep unchanged ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from captionbeam.capmodel.specs import complete_spec
from captionbeam.jobs.options.captioners import CaptionerOptions, captioning
from captionbeam.jobs.options.command import Result
from captionbeam.jobs.options.features import EncodingOptions, check_encoding, encoding
from captionbeam.jobs.options.prompts import without_prompts
from captionbeam.jobs.options.run import BulkCommand
from captionbeam.jobs.ui.terminal import note, say
from captionbeam.schemas.errors import PromptColumnError, RequestError
from captionbeam.schemas.fingerprint import changes
from captionbeam.schemas.options import (
    POSITIVE,
    PRECISION,
    SHARE_OR_NUMBER,
    STORE,
    URL,
    changed,
    one_of,
    option,
    text,
)
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.schemas.store.layout import Snapshot


@dataclass(frozen=True, kw_only=True)
class Refresh(CaptionerOptions, EncodingOptions, BulkCommand):
    """Updates a store from its sources.

    given: the options that the caller named, which win over the store's record; by default those that are not at their
    defaults.
    """

    GROUP = "refresh"
    HELP = """\
  captionbeam refresh features
  captionbeam refresh photos/ --output features --encoder efficientnet_lite0
  captionbeam refresh photos/ --output captions --bundle bundle --beam 3
  captionbeam refresh --features features --output captions --bundle bundle
  captionbeam refresh --features features --output small --reduce components.safetensors

Compares the listing of every SOURCE with the store's newest snapshot and publishes the next one. New and changed images
are processed; images that left the listing of their source are deleted (old snapshots keep them), at most
--max-deletes of them; unchanged ones cost only the listing. Sources, encoder or captioner and all other options that
determine rows are those of the store's record unless they are named. A named SOURCE is listed completely, without a
recorded --limit or --sample. Rows of sources that are not listed are kept. With another encoder, bundle or option than
the store was made with, all images are processed again, which needs --redo. --plan shows what would be done and what it
costs, --canary N tries it on N images; neither writes to the store.
"""
    name = "refresh"

    output: str | None = option(
        None, "the store to update; STORE alone, without SOURCE, means the same", STORE, common=True
    )
    max_deletes: float = option(
        0.1,
        "publish nothing if more than this share (of the images that the store has of the sources) or number of images "
        "is gone, or if the store would lose that many rows",
        SHARE_OR_NUMBER,
        common=True,
    )
    retire: tuple[str, ...] = option(
        (),
        "a source that no longer exists or has another name: its images that no SOURCE lists are deleted; repeatable",
        text("SOURCE"),
        repeated=True,
    )
    redo: bool = option(
        False,
        "process all images again if the store was made with another encoder, bundle or option; otherwise such a "
        "refresh is refused",
        common=True,
    )
    ignore_record: bool = option(
        False, "use nothing of the store's record: sources and options are those that are named"
    )
    plan: bool = option(False, "print what would be done, and stop", common=True)
    canary: int | None = option(
        None, "process N images in another place, print rate and cost of all, and stop", POSITIVE, common=True
    )
    scratch: str | None = option(
        None, "temporary place of --plan and --canary (default: this machine's temporary folder)", URL
    )
    precision: str | None = option(
        None, "as for encode (default auto) or caption (default: the bundle's)", PRECISION
    )
    format: str | None = option(
        None,
        "format of a new store's shards: parquet or hdf5 (default: the store's)",
        one_of("parquet", "hdf5"),
    )
    given: frozenset[str] | None = None

    @classmethod
    def from_command_line(cls, values: dict[str, Any]) -> Self:
        """Returns the command, which remembers what was named."""
        return cls(**values, given=frozenset(values))

    @property
    def named(self) -> frozenset[str]:
        """The options that the caller named."""
        return frozenset(changed(self)) if self.given is None else self.given

    @property
    def writes_captions(self) -> bool:
        """Whether the store is one of captions."""
        return bool(self.bundle or self.captioner)

    def check(self) -> None:
        """Raises RequestError unless a store is named."""
        from captionbeam.jobs.options.recorded import with_store

        with_store(self)

    def execute(self) -> Result:
        """Resolves sources and options from the store's record, then plans, previews or performs the refresh."""
        from captionbeam.jobs.bulk.launch import launch, moved
        from captionbeam.jobs.options.recorded import repeat_request, with_store
        from captionbeam.jobs.run_on.target import resolve_target

        options = with_store(self)
        output = str(options.output)
        newest = layout.newest_snapshot(files.absolute(output))
        options = repeat_request(options, newest)
        options.check_request()
        precision = options.precision or (None if options.writes_captions else "auto")
        file_format = options.format or (newest.format if newest else "parquet")
        options = replace(options, precision=precision, format=file_format)
        target, options = resolve_target(options)
        work = self._work(options, output)
        retired = [*options.retired_names(), *moved(output, work)]
        _check_sources_of_store(options, work, newest, retired)
        _check_redo(options, work, newest)
        if options.plan or options.canary:
            from captionbeam.jobs.bulk.preview import try_out

            same = _unchanged_prompts(newest.spec, work.spec) if newest is not None else []
            fewer = without_prompts(options, same) if options.canary and same else options
            tried = captioning(fewer, output) if fewer.prompt and fewer is not options else work
            return try_out(work, options, target, retired, tried)
        if not options.lists_all:
            note("--sample and --limit list a part of the images: none is deleted")
        gates = options.gates(options.max_deletes)
        return launch(work, output, options, target, gates, str(options.format), "refresh", retired)

    def _work(self, options: Refresh, output: str) -> Work:
        if not options.writes_captions:
            return encoding(options, output)
        try:
            return captioning(options, output)
        except PromptColumnError as err:
            raise err if self.named & {"prompt", "prompt_file"} else err.of_record() from err

    def check_request(self) -> None:
        """Raises RequestError for options that exclude each other."""
        if self.writes_captions == bool(self.encoder) and not (self.features and not self.writes_captions):
            raise RequestError(
                "a refresh needs one of --encoder (for features) and --bundle or --captioner (for captions); expected "
                "exactly one"
            )
        if [self.plan, bool(self.canary), self.dry_run].count(True) > 1:
            raise RequestError("--plan, --canary and --dry-run exclude each other; expected one of them")
        if self.writes_captions:
            self.check_captioner()
        else:
            check_encoding(self)

    def retired_names(self) -> list[str]:
        """Returns the names of the sources in --retire."""
        from captionbeam.pipelines.sources.spec import source_name

        return [source_name(name) for name in self.retire]


def _check_sources_of_store(
    options: Refresh, work: Work, newest: Snapshot | None, retired: Sequence[str]
) -> None:
    """Raises RequestError for unknown sources in --retire, and if a redo would lose other sources' rows."""
    from captionbeam.pipelines.bulk.compare import sources_ever, sources_of
    from captionbeam.schemas.store.reading import Store

    redo = newest is not None and newest.fingerprint != work.fingerprint
    if newest is None or not (redo or options.retire):
        if options.retire:
            raise RequestError(f"{options.output} is new; expected no --retire")
        return
    there = sources_of(Store(files.absolute(str(options.output)), newest))
    for name in options.retired_names():
        if name not in there:
            raise RequestError(f"{name} is no source of {options.output}; expected one of {_listed(there)}")
    if not redo:
        return
    kept = {*work.names, *retired, *(sources_ever(work.features) if work.features else ())}
    if not there <= kept:
        raise RequestError(
            f"all of {options.output} would be processed again, and the rows of {_listed(there - kept)} lost; expected "
            "these sources too, or --retire with each that may go"
        )
    if not options.lists_all:
        raise RequestError(
            f"all of {options.output} would be processed again, but --sample or --limit, given now or in the store's "
            "record, lists a part; expected neither, or the options that the store was made with"
        )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _check_redo(options: Refresh, work: Work, newest: Snapshot | None) -> None:
    """Prints why all images are processed again, if they are. Raises RequestError if that was not requested."""
    if newest is None or newest.fingerprint == work.fingerprint:
        return
    images = newest.totals["rows"] + newest.totals["failed"]
    found = changes(complete_spec(newest.spec), complete_spec(work.spec))
    same = _unchanged_prompts(newest.spec, work.spec)
    copied = (
        f"; answers to the unchanged prompt{'s' * (len(same) > 1)} {', '.join(same)} are copied"
        if same
        else ""
    )
    said = ", ".join(f"{name} {old} -> {new}" for name, old, new in found)
    if not (options.redo or options.plan or options.canary):
        raise RequestError(
            f"all {images:,} images of {options.output} would be processed again: {said}; expected --redo to do so "
            f"(--plan shows what it costs{copied}), or the options that the store was made with"
        )
    say(
        f"all {images:,} images of {options.output} are processed again: {said}{copied}",
        to_error=options.dry_run,
    )


def _unchanged_prompts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the columns of the prompts of ``new`` whose answers a store of ``old`` has."""
    from captionbeam.pipelines.endpoints.prompts import prompts_in

    known = {prompt.fingerprint for prompt in prompts_in(old)}
    return [prompt.column for prompt in prompts_in(new) if prompt.fingerprint in known]
