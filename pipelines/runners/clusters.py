"""Spark and Flink: what a job on them needs beside Beam's own defaults, and what its launcher has to say."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
)
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.runner import PipelineResult

from captionbeam.pipelines.runners.names import runner_of
from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.storage import files

SPARK, FLINK, PORTABLE = ("SparkRunner",), ("FlinkRunner",), ("PortableRunner",)
CLUSTERS = (*SPARK, *FLINK, *PORTABLE)
REST_SECONDS = 10
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOCAL = re.compile(r"local(\[.+\])?|\[local\]|\[auto\]")
_FAILED = re.compile(r"Pipeline \S+ failed in state \w+: ")


def on_cluster(beam_args: Sequence[str]) -> bool:
    """Whether the runner that ``beam_args`` name hands the job to a cluster by Beam's job server."""
    return runner_of(PipelineOptions(list(beam_args))) in CLUSTERS


def executable_path(beam_args: Sequence[str]) -> str | None:
    """The jar that is to be written in place of running the job, if any."""
    return PipelineOptions(list(beam_args)).view_as(PortableOptions).output_executable_path


def notes(url: str, beam_args: Sequence[str]) -> Iterator[str]:
    """What a person should know before a job on a cluster writes to the store at ``url``."""
    if on_cluster(beam_args) and not loops_back(beam_args) and files.is_local(files.split(url)[0]):
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


def loops_back(beam_args: Sequence[str]) -> bool:
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


@contextmanager
def attending(pipeline: beam.Pipeline) -> Iterator[Callable[[], PipelineResult]]:
    """What runs ``pipeline``, for a block that then waits: Ctrl-C or SIGTERM in it ends the cluster's job too."""
    options, runner = pipeline.options, runner_of(pipeline.options)  # running takes the name away
    named = options.view_as(GoogleCloudOptions)
    named.job_name = named.job_name or f"captionbeam-{uuid.uuid4().hex[:12]}"
    running: list[PipelineResult] = []

    def run() -> PipelineResult:
        running.append(pipeline.run())
        _handle_signals()  # Beam's own handler, which it has set now, stops the job server and not the job
        return running[0]

    earlier = _handle_signals()
    with _artifacts(options):
        try:
            yield run
        except KeyboardInterrupt:
            threading.excepthook = (
                _say_nothing  # of the thread that reads what the job server says, and loses it
            )
            logging.disable()  # nor what the job server says of having been stopped
            for result in running:
                _cancel(runner, result, options)
            raise
        finally:
            for number, handler in zip(SIGNALS, earlier, strict=True):
                signal.signal(number, handler)


def _handle_signals() -> list[Any]:
    return [signal.signal(number, signal.default_int_handler) for number in SIGNALS]


def _say_nothing(_: Any) -> None: ...


@contextmanager
def _artifacts(options: PipelineOptions) -> Iterator[None]:
    """A folder for what the job server stages. In Beam's own, both would clean up at once, and leave it running."""
    server = options.view_as(JobServerOptions)
    if server.artifacts_dir is not None:
        yield
        return
    server.artifacts_dir = tempfile.mkdtemp(prefix="captionbeam-staged-")
    try:
        yield
    finally:
        shutil.rmtree(server.artifacts_dir, ignore_errors=True)


def _cancel(runner: str | None, result: PipelineResult, options: PipelineOptions) -> None:
    """End the cluster's job. Spark's ends with its driver, the job server; Flink's goes on, whatever Beam says."""
    master = options.view_as(FlinkRunnerOptions).flink_master
    with suppress(OSError, KeyError, RuntimeError):  # gone with what it ran on
        if runner in PORTABLE:
            result.cancel()
        elif runner in FLINK and not _LOCAL.fullmatch(master):
            _cancel_flink(
                FlinkRunner.add_http_scheme(master), str(options.view_as(GoogleCloudOptions).job_name)
            )


def _cancel_flink(master: str, name: str) -> None:
    with urllib.request.urlopen(f"{master}/jobs/overview", timeout=REST_SECONDS) as answer:
        jobs = [job["jid"] for job in json.load(answer)["jobs"] if job["name"] == name]
    for job in jobs:
        request = urllib.request.Request(f"{master}/jobs/{job}?mode=cancel", method="PATCH")
        urllib.request.urlopen(request, timeout=REST_SECONDS).close()


def failure(error: Exception) -> SystemicError:
    """A cluster's own trouble as one sentence: the first line of what it said."""
    said = _FAILED.sub("", str(error)).strip() or type(error).__name__
    return SystemicError(
        f"the cluster gave up: {said.splitlines()[0]}; expected it to be there, with room; the same command goes on"
    )
