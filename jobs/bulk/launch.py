"""The common pipeline of bulk jobs: list, skip finished images, plan, process, publish, then report."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import pyarrow as pa

from captionbeam.jobs.bulk.watch import Watch, finish
from captionbeam.jobs.options.command import Result
from captionbeam.jobs.options.recorded import request_of
from captionbeam.jobs.options.run import BulkCommand
from captionbeam.jobs.options.sources import Part
from captionbeam.jobs.run_on.running import print_dry, run_on
from captionbeam.jobs.run_on.target import RunTarget
from captionbeam.jobs.ui.terminal import note, say
from captionbeam.pipelines.bulk.changed_columns import RewriteColumns
from captionbeam.pipelines.bulk.compare import CompareStore, NameSources
from captionbeam.pipelines.bulk.dedup import HashContents
from captionbeam.pipelines.bulk.duplicates import PassOverDuplicates
from captionbeam.pipelines.bulk.find import LimitImages
from captionbeam.pipelines.bulk.gates import Gates
from captionbeam.pipelines.bulk.kept_schema import write_kept_schema
from captionbeam.pipelines.bulk.listing_record import RecordListing
from captionbeam.pipelines.bulk.plan import PlanShards
from captionbeam.pipelines.bulk.publish import PublishSnapshot
from captionbeam.pipelines.bulk.run import Run, moved_sources, start_run
from captionbeam.pipelines.bulk.skip import SkipDone
from captionbeam.pipelines.runners import clusters
from captionbeam.pipelines.runners.runner import is_handed_over, worker_processes
from captionbeam.pipelines.workers.batches import WorkerJob
from captionbeam.pipelines.workers.shards import Fetch
from captionbeam.pipelines.workers.transforms import ProcessShards
from captionbeam.schemas.counts import counted
from captionbeam.schemas.formats.kept import schema_of
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.reading import Store


@dataclass(frozen=True)
class Work:
    """A bulk job's work: the images to process, and what workers load.

    ``kind``, ``spec``, ``fingerprint`` and ``field``: the resulting rows. ``find``: lists the images, with counts like
    ``ListSources`` if ``counted``. ``names``: the sources that it lists. ``features``: the snapshot that it lists
    instead. ``job``: copies weights or a bundle to a store's ``models/``, whose URL it takes, and returns the workers'
    job. ``dedup``: reads all images first, so that equal content is planned together. ``part``: the images of
    the sources that are processed. ``first``: of several images with one id, the first one is taken. ``keep``: names
    of columns to keep, or ``all``. ``seen``: columns that were seen before the listing. ``kept``: names and types of
    those to keep, if they are known before it. ``exif``: names of what to keep of each image file. ``adopts``: images
    take over the rows that the store has of them under other ids.
    """

    kind: str
    spec: Mapping[str, Any]
    fingerprint: str
    field: pa.Field
    find: beam.PTransform
    names: tuple[str, ...]
    features: Store | None
    fetch: Fetch
    job: Callable[[str], WorkerJob]
    dedup: bool = False
    counted: bool = False
    part: Part = field(default_factory=Part)
    first: bool = False
    keep: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    kept: pa.Schema | None = None
    exif: tuple[str, ...] = ()
    adopts: bool = False


def start(work: Work, url: str, options: BulkCommand, file_format: str = "parquet", **how: Any) -> Run:
    """Starts a new run of ``work`` on the store at ``url``; ``how`` are arguments of ``start_run``."""
    run = start_run(
        url,
        work.kind,
        work.spec,
        work.fingerprint,
        work.field,
        file_format,
        options.record(),
        keeps=bool(work.keep),
        exif=work.exif,
        **how,
    )
    if run.keeps and work.kept is not None:
        write_kept_schema(run, work.kept)
    return dataclasses.replace(run, adopts=work.adopts)


def launch(
    work: Work,
    url: str,
    options: BulkCommand,
    target: RunTarget,
    gates: Gates,
    file_format: str = "parquet",
    operation: str = "add",
    retired: Sequence[str] = (),
    request: Mapping[str, Any] | None = None,
) -> Result:
    """Performs a new run on the store at ``url``, or only prints it with --dry-run.

    ``retired``: sources of a refresh that no longer exist. ``request``: how to repeat the run (default: that of
    ``options`` and ``work``).
    """
    if operation != "refresh":
        retired = moved(url, work)
    note_rows_before(work, url, options)
    begin = functools.partial(
        start,
        work,
        url,
        options,
        file_format,
        operation=operation,
        runner=target.record,
        request=request_of(options, work) if request is None else request,
        retired=retired,
    )
    if options.dry_run:
        return Result(totals=dry_run(begin, work, options, target, gates, retired))
    return process_images(begin(), work, options, target, gates, retired)


def note_rows_before(work: Work, url: str, options: BulkCommand) -> None:
    """Says how many rows of a store have none of what the run keeps of each image file."""
    newest = layout.newest_snapshot(files.absolute(url)) if work.exif else None
    if newest is None or newest.fingerprint != work.fingerprint:
        return
    there = schema_of(newest.exif).names
    lacking = [name for name in work.exif if name not in there]
    if lacking:
        flag = "--keep-exif" if "width" in lacking else "--keep-gps"
        said = f"{counted(newest.totals['rows'], 'row')} of {url} made without {flag}"
        note(f"{said}: null in its columns until the image is read again", options.dry_run)


def moved(url: str, work: Work) -> list[str]:
    """Returns and prints the former names of sources that were moved or copied together with the store."""
    found = moved_sources(url, work.names)
    for old, name in found.items():
        note(f"{url} has moved, or is a copy: rows of {old} count as those of {name}")
    return list(found)


def process_images(
    run: Run,
    work: Work,
    options: BulkCommand,
    target: RunTarget,
    gates: Gates,
    retired: Sequence[str] = (),
) -> Result:
    """Runs the pipeline and reports."""
    build = builder(run, work, options, target, gates, retired, files.join(run.url, "models"))
    if not files.has_atomic_create(run.url):
        note(f"{files.protocol(run.url)} cannot create a file only if it is absent: use one writer at a time")
    for line in clusters.notes(run.url, target.beam_args):
        say(line)
    if is_handed_over(target.beam_args):
        run_on(target, build, options.name, run.run_id, run.url, run.folder)
        return Result(output=run.url)
    with Watch(run, options.name) as watch:
        run_on(target, build, options.name, run.run_id, run.url, run.folder)
    return finish(run, watch, options)


def dry_run(
    begin: Callable[..., Run],
    work: Work,
    options: BulkCommand,
    target: RunTarget,
    gates: Gates,
    retired: Sequence[str],
) -> Mapping[str, Any]:
    """Returns and prints what would run. The record and weights go to a temporary folder; the store is only read."""
    with tempfile.TemporaryDirectory(prefix="captionbeam-") as folder:
        run = begin(place=folder)
        build = builder(run, work, options, target, gates, retired, folder)
        about = {"job": options.name, "run": dataclasses.asdict(dataclasses.replace(run, place=""))}
        return print_dry(target, build, options.name, run.run_id, run.url, about)


def builder(
    run: Run,
    work: Work,
    options: BulkCommand,
    target: RunTarget,
    gates: Gates,
    retired: Sequence[str],
    models_url: str,
) -> Callable[[beam.Pipeline], beam.PCollection]:
    """Returns the function that builds the pipeline; keeps weights or a bundle at ``models_url`` first."""
    job = target.with_device(work.job(models_url))
    sharing = options.threads, worker_processes(target.beam_args)

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        todo, changes, written = to_do(pipeline, run, work, options, retired)
        if work.dedup:
            todo = todo | HashContents(work.fetch)
        shards = todo | PlanShards(run, options.shard_size, written[0] if run.keeps else None)
        reports = shards | ProcessShards(run, job, work.fetch, *sharing)
        if run.keeps:
            rewritten = changes | RewriteColumns(run, written[0])
            written.append(rewritten | "Rewritten" >> beam.Map(lambda _: 1))
        awaited = (reports | "Report" >> beam.Map(lambda _: 1), *written) | "Await" >> beam.Flatten()
        return awaited | PublishSnapshot(run, gates)

    return build


def to_do(
    pipeline: beam.Pipeline, run: Run, work: Work, options: BulkCommand, retired: Sequence[str] = ()
) -> tuple[beam.PCollection, beam.PCollection, list[beam.PCollection]]:
    """Returns the images to process, rows whose kept columns changed, and collections that publishing must wait for.

    The first of these is the record of the listing, with the types of the kept columns.
    """
    images = pipeline | "FindImages" >> work.find
    written = []
    if work.counted:
        images, listings = images
        written = [listings | "RecordListing" >> RecordListing(run, work.names, work.keep, work.seen)]
    elif run.keeps:  # their types are known
        written = [pipeline | "KnowTypes" >> beam.Create([0])]
    if work.first:
        images, passed_over = images | PassOverDuplicates(run, work.names)
        written.append(passed_over)
    if work.part.limit:
        images = images | LimitImages(work.part.limit, work.part.seed)
    if run.operation != "refresh":
        todo, changes = images | SkipDone(run, options.retry_failures, retired)
    else:
        names = NameSources([*work.names, *retired], work.features)
        compare = CompareStore(run, names, work.part.lists_all, options.retry_failures)
        todo, changes, compared = images | compare
        written.append(compared)
    return (
        todo,
        changes,
        [one | f"Written{number}" >> beam.Map(lambda _: 1) for number, one in enumerate(written)],
    )
