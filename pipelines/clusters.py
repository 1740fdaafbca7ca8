"""Spark and Flink: what a job on them needs beside Beam's own defaults, and what its launcher has to say."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
)
from apache_beam.runners.runner import PipelineResult

from pipelines.runner_names import runner_of
from schemas import files
from schemas.errors import RequestError, SystemicError

SPARK, FLINK, PORTABLE = ("SparkRunner",), ("FlinkRunner",), ("PortableRunner",)
CLUSTERS = (*SPARK, *FLINK, *PORTABLE)
_LOCAL = re.compile(r"local(\[.+\])?|\[local\]|\[auto\]")
_FAILED = re.compile(r"Pipeline \S+ failed in state \w+: ")


def on_cluster(beam_args: Sequence[str]) -> bool:
    """Whether the runner that ``beam_args`` name hands the job to a cluster by Beam's job server."""
    return runner_of(PipelineOptions(list(beam_args))) in CLUSTERS


def executable_path(beam_args: Sequence[str]) -> str | None:
    """The jar that is to be written in place of running the job, if any."""
    return PipelineOptions(list(beam_args)).view_as(PortableOptions).output_executable_path


def check_runs_now(beam_args: Sequence[str], why: str) -> None:
    """Refuse to write a jar in place of running. Raises RequestError."""
    if executable_path(beam_args) is not None:
        raise RequestError(
            f"--output_executable_path would leave it for later, and {why}; expected to leave it out"
        )


def check_cluster(beam_args: Sequence[str]) -> None:
    """Refuse a job whose workers could not be had. Raises RequestError."""
    if not on_cluster(beam_args):
        return
    portable = PipelineOptions(list(beam_args)).view_as(PortableOptions)
    runner, jar = runner_of(portable), portable.output_executable_path
    if jar and _loops_back(beam_args):
        raise RequestError(
            f"{jar} would look for workers in this process, which is gone by then; expected --environment_type "
            "EXTERNAL with the address of worker pools, or DOCKER or PROCESS"
        )
    if not _loops_back(beam_args) and not (portable.environment_config or portable.environment_options):
        raise RequestError(
            f"{runner} is not told where its Python workers come from; expected --environment_type EXTERNAL "
            "--environment_config localhost:50000 with captionbeam workers on each machine, or an image of yours "
            "with --environment_type DOCKER, or LOOPBACK to have them in this process"
        )


def notes(url: str, beam_args: Sequence[str]) -> Iterator[str]:
    """What a person should know before a job on a cluster writes to the store at ``url``."""
    if on_cluster(beam_args) and not _loops_back(beam_args) and files.is_local(files.split(url)[0]):
        yield (
            f"note: {url} is a path: every machine of the cluster needs it as the same shared folder; "
            "else expected gs:// or s3://"
        )


def submit_line(path: str, beam_args: Sequence[str]) -> str:
    """What was written in place of running the job, and how to run it."""
    options = PipelineOptions(list(beam_args))
    if runner_of(options) in FLINK:
        how = f"flink run {path}"
    else:
        master = options.view_as(SparkRunnerOptions).spark_master_url
        how = f"spark-submit --master {'MASTER' if _LOCAL.fullmatch(master) else master} {path}"
    return f"wrote {path}: nothing has run; it does when submitted, and publishes at its end: {how}"


def _loops_back(beam_args: Sequence[str]) -> bool:
    """Whether the workers are threads of the launcher: by request, or as Beam has it for a local engine."""
    options = PipelineOptions(list(beam_args))
    portable, runner = options.view_as(PortableOptions), runner_of(options)
    if portable.environment_type or runner in PORTABLE:
        return portable.environment_type in ("LOOPBACK", "EMBEDDED")
    masters = {
        "SparkRunner": options.view_as(SparkRunnerOptions).spark_master_url,
        "FlinkRunner": options.view_as(FlinkRunnerOptions).flink_master,
    }
    return bool(_LOCAL.fullmatch(masters[str(runner)])) and not portable.output_executable_path


def wait(result: PipelineResult) -> None:
    """Wait for a cluster's job; on Ctrl-C or SIGTERM cancel it there too. Raises SystemicError where it fails."""
    with _interruptible():
        try:
            result.wait_until_finish()
        except KeyboardInterrupt:
            with suppress(Exception):  # the job server may be gone, and the job with it
                result.cancel()
            raise


def failure(error: Exception) -> SystemicError:
    """A cluster's own trouble as one sentence: the first line of what it said."""
    said = _FAILED.sub("", str(error)).strip() or type(error).__name__
    return SystemicError(
        f"the cluster gave up: {said.splitlines()[0]}; expected it to be there, with room; the same command goes on"
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT, and SIGTERM likewise, as KeyboardInterrupt: Beam's own handler stops the job server, not the job."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    earlier: list[Callable | int | None] = [
        signal.signal(number, signal.default_int_handler) for number in numbers
    ]
    try:
        yield
    finally:
        for number, handler in zip(numbers, earlier, strict=True):
            signal.signal(number, handler)
