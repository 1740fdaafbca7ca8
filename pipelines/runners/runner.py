"""Selects the Beam runner of a pipeline, runs it, and translates its errors."""

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

# hides notices that Beam logs as warnings while it starts a server
logging.getLogger("apache_beam.utils.subprocess_server").setLevel(logging.ERROR)
logging.getLogger().addFilter(lambda record: "Waiting for grpc channel" not in record.getMessage())

PLACING = (
    "direct_running_mode",
    "direct_num_workers",
    "environment_type",
    "sdk_worker_parallelism",
    "experiments",
    "spark_master_url",
    "flink_master",
    "output_executable_path",
)


def make_pipeline(beam_args: Sequence[str] = ()) -> beam.Pipeline:
    """Returns a pipeline on the runner in ``beam_args``; by default the in-process one, which downloads nothing."""
    options = PipelineOptions(list(beam_args))
    if runner_of(options) in IN_PROCESS:
        if _is_apart(options):
            setup = options.view_as(SetupOptions)
            setup.beam_plugins = [*(setup.beam_plugins or []), log_filter.PLUGIN]
        # also passes the options to separate worker processes
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        info = ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded))
        return beam.Pipeline(runner=FnApiRunner(provision_info=info), options=options)
    return beam.Pipeline(options=options)


def _is_apart(options: PipelineOptions) -> bool:
    """Returns whether the in-process runner uses separate worker processes."""
    return bool(options.view_as(DirectOptions).direct_running_mode == "multi_processing")


def runs_in_process(beam_args: Sequence[str]) -> bool:
    """Returns whether ``make_pipeline`` would use the in-process runner."""
    return runner_of(PipelineOptions(list(beam_args))) in IN_PROCESS


def worker_processes(beam_args: Sequence[str]) -> int:
    """Returns the number of worker processes per machine according to Beam's options; 0 means one per core.

    1 is also returned if it is unknown (several worker pools or task managers on one machine).
    """
    options = PipelineOptions(list(beam_args))
    runner, portable = runner_of(options), options.view_as(PortableOptions)
    if runner in IN_PROCESS:
        return (options.view_as(DirectOptions).direct_num_workers or cores()) if _is_apart(options) else 1
    if runner in DATAFLOW:
        alone = options.view_as(DebugOptions).lookup_experiment("no_use_multiple_sdk_containers")
        return 1 if alone else 0
    if runner in ONE_WORKER or portable.environment_type == "LOOPBACK":
        return 1
    named = str(portable.sdk_worker_parallelism)
    return int(named) if named.isdecimal() else 1


def workers_elsewhere(beam_args: Sequence[str]) -> bool:
    """Returns whether workers may run on other machines, so that this machine's resources say nothing about theirs."""
    options = PipelineOptions(list(beam_args))
    runner = runner_of(options)
    if runner in IN_PROCESS or runner in DATAFLOW:
        return runner in DATAFLOW
    if runner in ONE_WORKER:
        return options.view_as(PortableOptions).environment_type not in (None, "LOOPBACK", "EMBEDDED")
    return not clusters.loops_back(beam_args)


def placing_args(pipeline: beam.Pipeline) -> list[str]:
    """Returns Beam's flags that say where a pipeline's workers run, for ``worker_processes``, ``workers_elsewhere``."""
    options = pipeline.options.get_all_options()
    given = {name: options[name] for name in PLACING if options.get(name) is not None}
    lists = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    flags = [f"--{name}={value}" for name, values in lists.items() for value in values]
    return [f"--runner={type(pipeline.runner).__name__}", *flags]


def is_handed_over(beam_args: Sequence[str]) -> bool:
    """Returns whether a pipeline is only written (a template, an executable), to be started separately."""
    options = PipelineOptions(list(beam_args))
    if runner_of(options) in DATAFLOW:
        return options.view_as(GoogleCloudOptions).template_location is not None
    return options.view_as(PortableOptions).output_executable_path is not None


def run_pipeline(
    beam_args: Sequence[str],
    build: Callable[[beam.Pipeline], object],
    submitted: Callable[[PipelineResult], None] | None = None,
) -> None:
    """Builds a pipeline, runs it and waits. Raises the first captionbeam error of a worker unchanged.

    ``submitted`` receives the runner's result before the wait. Raises SystemicError if a cluster fails or Prism does
    not start.
    """
    on_cluster = clusters.on_cluster(beam_args)
    pipeline = make_pipeline(beam_args)
    name, started = runner_of(pipeline.options), False
    with log_filter.said_once() as stderr, _stopping_prism(pipeline, stderr):
        build(pipeline)  # errors here come from the launcher, not from a cluster
        try:
            with clusters.attending(pipeline) if on_cluster else local.attending(pipeline, stderr) as run:
                result = run()
                started = True
                if submitted is not None:
                    submitted(result)
                result.wait_until_finish()
        except Exception as err:  # each runner wraps workers' errors in its own type
            ours = unmarked(err)
            if ours is None and not on_cluster and (started or name not in ONE_WORKER):
                raise
            raise ours or clusters.failure(f"{name}", err) from err


@contextmanager
def _stopping_prism(pipeline: beam.Pipeline, stderr: log_filter.Unmarked) -> Iterator[None]:
    """Stops Prism at the end of the block, and suppresses the workers' messages about it.

    Without this, bundles of a failed job would keep arriving while this process ends.
    """
    try:
        yield
    finally:
        if isinstance(pipeline.runner, PrismRunner):
            stderr.over = True
            logging.getLogger("apache_beam.runners.worker").setLevel(logging.CRITICAL)
            pipeline.runner.default_job_server(pipeline.options).stop()
