"""Which Beam runner a pipeline runs on, and what its errors say."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SetupOptions,
    SparkRunnerOptions,
    StandardOptions,
    _BeamArgumentParser,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.runner import PipelineResult, create_runner

from pipelines import clusters, quiet
from pipelines.boundary import unmarked
from pipelines.runner_names import DATAFLOW, IN_PROCESS, ONE_WORKER, runner_of
from schemas.errors import RequestError
from schemas.machine import cores

# that a server is "really" started is no warning, nor that it takes a second
logging.getLogger("apache_beam.utils.subprocess_server").setLevel(logging.ERROR)
logging.getLogger().addFilter(lambda record: "Waiting for grpc channel" not in record.getMessage())


def make_pipeline(beam_args: Sequence[str] = ()) -> beam.Pipeline:
    """A pipeline on the runner that ``beam_args`` name; by default the in-process one, which downloads nothing."""
    options = PipelineOptions(list(beam_args))
    if runner_of(options) in IN_PROCESS:
        if _is_apart(options):
            setup = options.view_as(SetupOptions)
            setup.beam_plugins = [*(setup.beam_plugins or []), quiet.PLUGIN]
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


def is_handed_over(beam_args: Sequence[str]) -> bool:
    """Whether a pipeline is only written down (a template, an executable), for somebody else to start."""
    options = PipelineOptions(list(beam_args)).get_all_options()
    return any(options.get(name) for name in ("template_location", "output_executable_path"))


def run_pipeline(
    beam_args: Sequence[str],
    build: Callable[[beam.Pipeline], object],
    submitted: Callable[[PipelineResult], None] | None = None,
) -> None:
    """Build a pipeline, run it and wait. Raises the first error of ours that a worker raised, as it was.

    ``submitted`` gets the runner's result before it is waited for. Raises SystemicError where a cluster fails.
    """
    on_cluster = clusters.on_cluster(beam_args)
    try:
        pipeline = make_pipeline(beam_args)
        with quiet.said_once() as stderr, _stopping_prism(pipeline, stderr):
            build(pipeline)
            with clusters.attending(pipeline) if on_cluster else nullcontext(pipeline.run) as run:
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
def _stopping_prism(pipeline: beam.Pipeline, stderr: quiet.Unmarked) -> Iterator[None]:
    """A failed job's bundles would go on arriving while this process ends; so Prism stops first, and what the
    worker says of that is nobody's business."""
    try:
        yield
    finally:
        if isinstance(pipeline.runner, PrismRunner):
            stderr.over = True
            logging.getLogger("apache_beam.runners.worker").setLevel(logging.CRITICAL)
            pipeline.runner.default_job_server(pipeline.options).stop()


def check_beam_args(beam_args: Sequence[str]) -> None:
    """Refuse a flag that neither this job nor Beam knows, and a runner that there is not. Raises RequestError."""
    known = _beam_flags()
    for flag in (arg.split("=", 1)[0] for arg in beam_args if arg.startswith("--")):
        if flag not in known:
            near = difflib.get_close_matches(flag, sorted(known), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise RequestError(
                f"unknown option {flag!r}; expected one of this job's or of Beam's PipelineOptions{hint}"
            )
    _check_runner(beam_args)
    _check_idle(beam_args)
    clusters.check_cluster(beam_args)


def _check_idle(beam_args: Sequence[str]) -> None:
    """An option that would do nothing with this runner is a mistake. Raises RequestError."""
    options = PipelineOptions(list(beam_args))
    runner, direct = runner_of(options), options.view_as(DirectOptions)
    given = {arg.split("=", 1)[0] for arg in beam_args if arg.startswith("--")}
    named = f"--runner {runner}" if runner else "the in-process runner"
    for owners, flags in (
        (IN_PROCESS, [flag for flag in _flags(DirectOptions) if flag.startswith("--direct")]),
        (ONE_WORKER, _flags(PrismRunnerOptions)),
        (clusters.SPARK, _flags(SparkRunnerOptions)),
        (clusters.FLINK, _flags(FlinkRunnerOptions)),
        (
            clusters.CLUSTERS,
            ["--output_executable_path", "--environment_cache_millis", *_flags(JobServerOptions)],
        ),
    ):
        idle = sorted(given & set(flags)) if runner not in owners else []
        if idle:
            raise RequestError(f"{idle[0]} would do nothing with {named}; expected to leave it out")
    idle = sorted(given & {"--sdk_worker_parallelism", "--environment_type", "--environment_config"})
    if idle and runner in IN_PROCESS:
        raise RequestError(f"{idle[0]} would do nothing with {named}; expected to leave it out")
    _check_workers(direct, "--direct_num_workers" in given)
    prism = options.view_as(PrismRunnerOptions).prism_location
    if prism and "://" not in prism and not os.path.isfile(prism):
        raise RequestError(f"there is no Prism at {prism!r}; expected its binary, or a URL of it")


def _check_workers(direct: DirectOptions, given: bool) -> None:
    if direct.direct_num_workers < 0:
        raise RequestError(f"--direct_num_workers is {direct.direct_num_workers}; expected 0 or more")
    if direct.direct_running_mode == "multi_threading":
        raise RequestError(
            "--direct_running_mode multi_threading garbles what passes between steps, from some ten thousand images "
            "on; expected multi_processing, or no --direct_running_mode"
        )
    if given and direct.direct_num_workers != 1 and direct.direct_running_mode == "in_memory":
        raise RequestError(
            f"--direct_num_workers {direct.direct_num_workers} would do nothing by itself; expected "
            "--direct_running_mode multi_processing with it"
        )


def _check_runner(beam_args: Sequence[str]) -> None:
    options = PipelineOptions(list(beam_args))
    if runner_of(options) in IN_PROCESS:
        return
    name = options.view_as(StandardOptions).runner
    try:
        create_runner(name)
    except (ValueError, ImportError) as err:
        raise RequestError(f"no runner {name!r}: {' '.join(str(err).split())}") from err


def _flags(options: type[PipelineOptions]) -> list[str]:
    parser = _BeamArgumentParser(add_help=False)
    options._add_argparse_args(parser)
    return list(parser._option_string_actions)


def _beam_flags() -> set[str]:
    parser = _BeamArgumentParser(add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return set(parser._option_string_actions)
