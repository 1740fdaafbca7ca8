"""The one pipeline of bulk jobs: find, skip what is done, plan, process, publish; watched and summed up."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from jobs.options import as_record, clear_totals
from jobs.watch import Watch, finish
from pipelines import clusters
from pipelines.batches import Processor
from pipelines.compare import CompareStore, NameSources
from pipelines.copies import HashContents
from pipelines.find import LimitImages
from pipelines.gates import Gates
from pipelines.plan import PlanShards
from pipelines.publish import PublishSnapshot
from pipelines.run import Run, start_run
from pipelines.runner import run_pipeline, worker_processes
from pipelines.shards import Fetch
from pipelines.skip import SkipDone
from pipelines.transforms import ProcessShards
from schemas import files
from schemas.store import Store


@dataclass(frozen=True)
class Work:
    """What is done: which images, and the processor that a worker loads for them.

    ``kind``, ``spec``, ``fingerprint`` and ``field`` say what rows come of it. ``names``: of the sources that
    ``find`` lists; ``features``: the snapshot that it lists instead. ``keep`` copies weights or a bundle to a
    store's ``models/`` and gives the settings that ``load`` makes a processor from. ``dedup``: read everything ahead,
    so that copies are planned together.
    """

    kind: str
    spec: Mapping[str, Any]
    fingerprint: str
    field: pa.Field
    find: beam.PTransform
    names: tuple[str, ...]
    features: Store | None
    fetch: Fetch
    load: Callable[[Mapping[str, Any]], Processor]
    keep: Callable[[str], Mapping[str, Any]]
    dedup: bool = False


def start(work: Work, url: str, options: argparse.Namespace, file_format: str = "parquet", **how: str) -> Run:
    """A new run of ``work`` on the store at ``url``; ``how`` as ``start_run`` takes it."""
    return start_run(
        url, work.kind, work.spec, work.fingerprint, work.field, file_format, as_record(options), **how
    )


def process_images(
    run: Run,
    work: Work,
    options: argparse.Namespace,
    beam_args: Sequence[str],
    gates: Gates,
    retired: Sequence[str] = (),
) -> int:
    """Run the pipeline and report; gives the exit status. ``retired``: a refresh's sources that are no more."""
    clear_totals(options)
    settings = work.keep(files.join(run.url, "models"))
    sharing = options.threads, worker_processes(beam_args)

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        todo, written = to_do(pipeline, run, work, options, retired)
        if work.dedup:
            todo = todo | HashContents(work.fetch)
        shards = todo | PlanShards(run, options.shard_size)
        reports = shards | ProcessShards(run, work.load, settings, work.fetch, *sharing)
        awaited = (reports | "Report" >> beam.Map(lambda _: 1), *written) | "Await" >> beam.Flatten()
        return awaited | PublishSnapshot(run, gates)

    if not files.has_atomic_create(run.url):
        print(
            f"note: {files.protocol(run.url)} cannot create a file only if it is absent; one writer at a time"
        )
    for note in clusters.notes(run.url, beam_args):
        print(note, flush=True)
    jar = clusters.executable_path(beam_args)
    if jar is not None:
        run_pipeline(beam_args, build)
        print(clusters.submit_line(jar, beam_args))
        return 0
    with Watch(run, options.job) as watch:
        run_pipeline(beam_args, build)
    return finish(run, watch, options)


def to_do(
    pipeline: beam.Pipeline, run: Run, work: Work, options: argparse.Namespace, retired: Sequence[str] = ()
) -> tuple[beam.PCollection, list[beam.PCollection]]:
    """The images to be done, and what publishing has to wait for beside their shards."""
    images = pipeline | "FindImages" >> work.find
    if options.limit:
        images = images | LimitImages(options.limit, options.seed)
    if run.operation != "refresh":
        return images | SkipDone(run, options.retry_failures), []
    names = NameSources([*work.names, *retired], work.features)
    todo, written = images | CompareStore(run, names, lists_all(options), options.retry_failures)
    return todo, [written | "Written" >> beam.Map(lambda _: 1)]


def lists_all(options: argparse.Namespace) -> bool:
    """Whether what is listed is all that the sources have."""
    return options.sample == 1 and not options.limit


def gates_of(options: argparse.Namespace, max_deletes: float | None = None) -> Gates:
    """The publish gates that the options set."""
    return Gates(options.max_failures, max_deletes, compared=True, anyway=options.publish_anyway)
