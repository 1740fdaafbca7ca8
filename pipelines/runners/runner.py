"""Which Beam runner a pipeline runs on, and what its errors say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.runner import PipelineResult

from captionbeam.pipelines.runners import clusters, local, log_filter
from captionbeam.pipelines.runners.names import DATAFLOW, IN_PROCESS, ONE_WORKER, runner_of
from captionbeam.pipelines.workers.boundary import unmarked
from captionbeam.schemas.machine import cores

# that a server is "really" started is no warning, nor that it takes a second
logging.getLogger("apache_beam.utils.subprocess_server").setLevel(logging.ERROR)
logging.getLogger().addFilter(lambda record: "Waiting for grpc channel" not in record.getMessage())


def make_pipeline(beam_args: Sequence[str] = ()) -> beam.Pipeline:
    """A pipeline on the runner that ``beam_args`` name; by default the in-process one, which downloads nothing."""
    options = PipelineOptions(list(beam_args))
    if runner_of(options) in IN_PROCESS:
        if _is_apart(options):
            setup = options.view_as(SetupOptions)
            setup.beam_plugins = [*(setup.beam_plugins or []), log_filter.PLUGIN]
        return beam.Pipeline(runner=_fn_api_runner(options), options=options)
    return beam.Pipeline(options=options)


def _fn_api_runner(options: PipelineOptions) -> FnApiRunner:
    """The in-process runner, whose workers get the options even where they are processes of their own."""
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    return FnApiRunner(
        provision_info=ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded))
    )


def _is_apart(options: PipelineOptions) -> bool:
    """Whether the in-process runner's workers are processes of their own."""
    return options.view_as(DirectOptions).direct_running_mode == "multi_processing"


def runs_in_process(beam_args: Sequence[str]) -> bool:
    """Whether ``make_pipeline`` would take the in-process runner."""
    return runner_of(PipelineOptions(list(beam_args))) in IN_PROCESS


def worker_processes(beam_args: Sequence[str]) -> int:
    """How many worker processes share a machine, as far as Beam's options tell it: 0 is one for each core, and 1
    stands for unknown too (several worker pools, or several task managers, on one machine)."""
    options = PipelineOptions(list(beam_args))
    runner, portable = runner_of(options), options.view_as(PortableOptions)
    if runner in IN_PROCESS:
        return (options.view_as(DirectOptions).direct_num_workers or cores()) if _is_apart(options) else 1
    if runner in DATAFLOW:
        alone = options.view_as(DebugOptions).lookup_experiment("no_use_multiple_sdk_containers")
        return 1 if alone else 0
    if runner in ONE_WORKER or portable.environment_type == "LOOPBACK":
        return 1
    return int(portable.sdk_worker_parallelism)


def workers_elsewhere(beam_args: Sequence[str]) -> bool:
    """Whether workers may be on other machines than this one, so that what this one has says nothing of them."""
    options = PipelineOptions(list(beam_args))
    runner = runner_of(options)
    if runner in IN_PROCESS or runner in DATAFLOW:
        return runner in DATAFLOW
    if runner in ONE_WORKER:
        return options.view_as(PortableOptions).environment_type not in (None, "LOOPBACK", "EMBEDDED")
    return not clusters.loops_back(beam_args)


def is_handed_over(beam_args: Sequence[str]) -> bool:
    """Whether a pipeline is only written down (a template, an executable), for somebody else to start."""
    options = PipelineOptions(list(beam_args))
    if runner_of(options) in DATAFLOW:
        return options.view_as(GoogleCloudOptions).template_location is not None
    return options.view_as(PortableOptions).output_executable_path is not None


def run_pipeline(
    beam_args: Sequence[str],
    build: Callable[[beam.Pipeline], object],
    submitted: Callable[[PipelineResult], None] | None = None,
) -> None:
    """Build a pipeline, run it and wait. Raises the first error of ours that a worker raised, as it was.

    ``submitted`` gets the runner's result before it is waited for. Raises SystemicError where a cluster fails.
    """
    on_cluster = clusters.on_cluster(beam_args)
    pipeline = make_pipeline(beam_args)
    with log_filter.said_once() as stderr, _stopping_prism(pipeline, stderr):
        build(pipeline)  # what goes wrong here is the launcher's, and no cluster's
        try:
            with clusters.attending(pipeline) if on_cluster else local.attending(pipeline, stderr) as run:
                result = run()
                if submitted is not None:
                    submitted(result)
                result.wait_until_finish()
        except Exception as err:  # runners wrap workers' errors each in a type of its own
            ours = unmarked(err)
            if ours is None and not on_cluster:
                raise
            raise ours or clusters.failure(err) from err


@contextmanager
def _stopping_prism(pipeline: beam.Pipeline, stderr: log_filter.Unmarked) -> Iterator[None]:
    """A failed job's bundles would go on arriving while this process ends; so Prism stops first, and what the
    worker says of that is nobody's business."""
    try:
        yield
    finally:
        if isinstance(pipeline.runner, PrismRunner):
            stderr.over = True
            logging.getLogger("apache_beam.runners.worker").setLevel(logging.CRITICAL)
            pipeline.runner.default_job_server(pipeline.options).stop()
