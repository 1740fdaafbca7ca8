"""The one pipeline of bulk jobs: find, skip what is done, plan, process, publish; watched and summed up."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from jobs.watch import Watch, finish
from pipelines.find import LimitImages
from pipelines.plan import PlanShards
from pipelines.publish import PublishSnapshot
from pipelines.run import Run
from pipelines.runner import run_pipeline
from pipelines.shards import Fetch, Processor
from pipelines.skip import SkipDone
from pipelines.transforms import ProcessShards
from schemas import files


@dataclass(frozen=True)
class Work:
    """What is done: which images, and the processor that a worker loads for them."""

    find: beam.PTransform
    load: Callable[[Mapping[str, Any]], Processor]
    settings: Mapping[str, Any]
    fetch: Fetch


def process_images(run: Run, work: Work, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Run the pipeline and report; gives the exit status."""

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        images = pipeline | "FindImages" >> work.find
        if options.limit:
            images = images | LimitImages(options.limit, options.seed)
        todo = images | SkipDone(run, options.retry_failures)
        shards = todo | PlanShards(run, options.shard_size)
        reports = shards | ProcessShards(run, work.load, work.settings, work.fetch)
        return reports | PublishSnapshot(run, options.max_failures)

    if not files.has_atomic_create(run.url):
        print(
            f"note: {files.protocol(run.url)} cannot create a file only if it is absent; one writer at a time"
        )
    with Watch(run, options.job) as watch:
        run_pipeline(beam_args, build)
    return finish(run, watch, options.price_per_hour, options.warn_failures)
