"""Which Beam runner a pipeline runs on, and what its errors say."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SparkRunnerOptions,
    StandardOptions,
    _BeamArgumentParser,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import create_runner

from pipelines import clusters
from pipelines.boundary import MARK, unmarked
from schemas.errors import RequestError
from schemas.machine import cores

# Beam logs a traceback of what a worker raised; an error of ours comes to the launcher, which says it once
for _name in ("apache_beam.runners.common", None):
    logging.getLogger(_name).addFilter(lambda record: MARK not in record.getMessage())

IN_PROCESS = (None, "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner")
DATAFLOW = ("DataflowRunner",)
ONE_WORKER = ("PrismRunner",)  # one process of each environment, whatever is asked for


def make_pipeline(beam_args: Sequence[str] = ()) -> beam.Pipeline:
    """A pipeline on the runner that ``beam_args`` name; by default the in-process one, which downloads nothing."""
    options = PipelineOptions(list(beam_args))
    runner = options.view_as(StandardOptions).runner
    if runner in IN_PROCESS:
        return beam.Pipeline(runner=FnApiRunner(), options=options)
    return beam.Pipeline(options=PipelineOptions(clusters.settled(beam_args)))


def runs_in_process(beam_args: Sequence[str]) -> bool:
    """Whether ``make_pipeline`` would take the in-process runner."""
    return PipelineOptions(list(beam_args)).view_as(StandardOptions).runner in IN_PROCESS


def worker_processes(beam_args: Sequence[str]) -> int:
    """How many worker processes share a machine, as far as Beam's options tell it: 0 is one for each core, and 1
    stands for unknown too (several worker pools, or several task managers, on one machine)."""
    options = PipelineOptions(list(beam_args))
    runner, portable = options.view_as(StandardOptions).runner, options.view_as(PortableOptions)
    if runner in IN_PROCESS:
        direct = options.view_as(DirectOptions)
        apart = direct.direct_running_mode == "multi_processing"
        return (direct.direct_num_workers or cores()) if apart else 1
    if runner in DATAFLOW:
        alone = options.view_as(DebugOptions).lookup_experiment("no_use_multiple_sdk_containers")
        return 1 if alone else 0
    if runner in ONE_WORKER or portable.environment_type == "LOOPBACK":
        return 1
    return int(portable.sdk_worker_parallelism)


def run_pipeline(beam_args: Sequence[str], build: Callable[[beam.Pipeline], object]) -> None:
    """Build a pipeline, run it and wait. Raises the first error of ours that a worker raised, as it was.

    Raises SystemicError where a cluster fails otherwise.
    """
    on_cluster = clusters.on_cluster(beam_args)
    try:
        pipeline = make_pipeline(beam_args)
        build(pipeline)
        if on_cluster:
            clusters.quiet()
            clusters.wait(pipeline.run())
        else:
            pipeline.run().wait_until_finish()
    except Exception as err:  # runners wrap workers' errors each in a type of its own
        ours = unmarked(err)
        if ours is None and not on_cluster:
            raise
        raise ours or clusters.failure(err) from err


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
    runner, direct = options.view_as(StandardOptions).runner, options.view_as(DirectOptions)
    given = {arg.split("=", 1)[0] for arg in beam_args if arg.startswith("--")}
    named = f"--runner {runner}" if runner else "the in-process runner"
    for owners, flags in (
        (IN_PROCESS, [flag for flag in _flags(DirectOptions) if flag.startswith("--direct")]),
        (ONE_WORKER, _flags(PrismRunnerOptions)),
        (clusters.SPARK, _flags(SparkRunnerOptions)),
        (clusters.FLINK, _flags(FlinkRunnerOptions)),
        (clusters.CLUSTERS, ["--output_executable_path", clusters.CACHE_FLAG, *_flags(JobServerOptions)]),
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
    if given and direct.direct_num_workers != 1 and direct.direct_running_mode == "in_memory":
        raise RequestError(
            f"--direct_num_workers {direct.direct_num_workers} would do nothing by itself; expected "
            "--direct_running_mode multi_processing with it, or multi_threading"
        )


def _check_runner(beam_args: Sequence[str]) -> None:
    name = PipelineOptions(list(beam_args)).view_as(StandardOptions).runner
    if name in IN_PROCESS:
        return
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
