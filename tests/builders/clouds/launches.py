"""Launches on Dataflow as the command line resolves them; nothing is sent."""

from __future__ import annotations

from apache_beam.options.pipeline_options import PipelineOptions

from captionbeam.jobs.encode import Encode
from captionbeam.jobs.run_on.target import settle_target

CLOUD = ["--runner", "DataflowRunner", "--project", "a-project", "--region", "us-central1",
         "--temp_location", "gs://bucket/tmp"]  # fmt: skip
PLACES = {"SOURCE": ["gs://bucket/photos"], "--output": ["gs://bucket/store"]}


def encode(beam_args, **more):
    """An ``encode`` of a bucket."""
    chosen = {"sources": ["gs://bucket/photos"], "output": "gs://bucket/store", "encoder": "resnet18", **more}
    return Encode(**chosen, pipeline_options=beam_args)


def settled(beam_args, gpu=None, places=PLACES, models=True):
    target = settle_target([*CLOUD, *beam_args], places, gpu, models)
    return target, PipelineOptions(
        target.arguments("encode", "20260102-030405-0a1b2c3d", "gs://bucket/store")
    )
