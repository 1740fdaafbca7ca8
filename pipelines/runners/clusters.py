"""Spark and Flink: Beam options for jobs on them, cancellation, and messages for the launcher."""

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


def on_cluster(beam_args: Sequence[str]) -> bool:
    """Returns whether the runner in ``beam_args`` submits the job to a cluster through Beam's job server."""
    return runner_of(PipelineOptions(list(beam_args))) in CLUSTERS


def executable_path(beam_args: Sequence[str]) -> str | None:
    """Returns the path of the jar to write instead of running the job, if any."""
    path: str | None = PipelineOptions(list(beam_args)).view_as(PortableOptions).output_executable_path
    return path


def notes(url: str, beam_args: Sequence[str]) -> Iterator[str]:
    """Yields notes for the user before a job on a cluster writes to the store at ``url``."""
    if on_cluster(beam_args) and not loops_back(beam_args) and files.is_local(files.split(url)[0]):
        yield (
            f"note: {url} is a path: every machine of the cluster needs it as the same shared folder; "
            "else expected gs:// or s3://"
        )


def submit_line(path: str, beam_args: Sequence[str]) -> str:
    """Returns a message that names the written jar and the command that runs it."""
    options = PipelineOptions(list(beam_args))
    if runner_of(options) in FLINK:
        how = f"flink run {path}"
    else:
        master = options.view_as(SparkRunnerOptions).spark_master_url
        how = f"spark-submit --master {'MASTER' if _LOCAL.fullmatch(master) else master} {path}"
    return f"wrote {path}: nothing has run; it does when submitted, and publishes at its end: {how}"


def loops_back(beam_args: Sequence[str]) -> bool:
    """Returns whether the workers are threads of the launcher: on request, or by Beam's default for a local engine."""
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
    """Yields a function that runs ``pipeline``. Ctrl-C or SIGTERM in the block also cancels the cluster's job."""
    # Read before the run, which removes the name
    options, runner = pipeline.options, runner_of(pipeline.options)
    named = options.view_as(GoogleCloudOptions)
    named.job_name = named.job_name or f"captionbeam-{uuid.uuid4().hex[:12]}"
    running: list[PipelineResult] = []

    def run() -> PipelineResult:
        running.append(pipeline.run())
        _handle_signals()  # replaces Beam's handler, which stops the job server but not the job
        return running[0]

    earlier = _handle_signals()
    with _artifacts(options):
        try:
            yield run
        except KeyboardInterrupt:
            threading.excepthook = lambda _: None  # of the thread that reads the job server's output
            logging.disable()  # including the job server's messages about being stopped
            for result in running:
                _cancel(runner, result, options)
            raise
        finally:
            for number, handler in zip(SIGNALS, earlier, strict=True):
                signal.signal(number, handler)


def _handle_signals() -> list[Any]:
    return [signal.signal(number, signal.default_int_handler) for number in SIGNALS]


@contextmanager
def _artifacts(options: PipelineOptions) -> Iterator[None]:
    """Provides a staging folder for the job server.

    With Beam's own folder, Beam and the job server would both remove it, and the job server would keep running.
    """
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
    """Cancels the cluster's job.

    Spark's job ends with its driver, the job server. Flink's must be cancelled explicitly.
    """
    master = options.view_as(FlinkRunnerOptions).flink_master
    with suppress(OSError, KeyError, RuntimeError):  # it ended together with its cluster
        if runner in PORTABLE:
            result.cancel()
        elif runner in FLINK and not _LOCAL.fullmatch(master):
            url, name = FlinkRunner.add_http_scheme(master), options.view_as(GoogleCloudOptions).job_name
            with urllib.request.urlopen(f"{url}/jobs/overview", timeout=REST_SECONDS) as answer:
                jobs = [job["jid"] for job in json.load(answer)["jobs"] if job["name"] == name]
            for job in jobs:
                request = urllib.request.Request(f"{url}/jobs/{job}?mode=cancel", method="PATCH")
                urllib.request.urlopen(request, timeout=REST_SECONDS).close()


def failure(runner: str, error: Exception) -> SystemicError:
    """Returns an error of a runner or its cluster as a SystemicError with the first line of its message."""
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    return SystemicError(f"{runner} failed: {first}; the same command resumes")
