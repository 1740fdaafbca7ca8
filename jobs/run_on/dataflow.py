"""Runs a job on Dataflow: sends it, waits, and reports its end in one sentence; or only prints it."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    TestOptions,
)
from apache_beam.runners.runner import PipelineResult

from captionbeam.jobs.run_on.packages import NAME, build_wheel
from captionbeam.jobs.ui.terminal import say
from captionbeam.pipelines.runners.runner import make_pipeline, run_pipeline
from captionbeam.schemas.errors import CaptionbeamError, RequestError, SystemicError
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.layout import now

RUNNER_LOG = "apache_beam.runners.dataflow.dataflow_runner"
STAGER_LOG = "apache_beam.runners.portability.stager"
CLIENT_LOG = "apache_beam.runners.dataflow.internal.apiclient"
RESUMES = "the same command resumes"


def run_on_dataflow(
    beam_args: Sequence[str], build: Callable[[beam.Pipeline], object], record_url: str, about: dict[str, Any]
) -> None:
    """Sends the job, writes ``record_url``, and waits. Raises SystemicError if it is refused or fails, RequestError.

    The record is ``about`` plus the job's id, name and console URL.
    """
    import google.auth

    sent: dict[str, Any] = {}

    def submitted(result: PipelineResult) -> None:
        sent.update(about, **_sent(beam_args, result))
        files.write_atomic(record_url, files.json_bytes(sent))
        if sent["job_id"]:
            say(f"Dataflow job {sent['job_id']}: {sent['console']}")

    with packaged(beam_args) as whole, _refusals(sent), _progress_lines():
        if not PipelineOptions(list(beam_args)).view_as(GoogleCloudOptions).no_auth:
            google.auth.default()  # first, as Beam would retry for a minute and print tracebacks
        try:
            run_pipeline(whole, build, submitted)
        except KeyboardInterrupt:
            if not sent.get("job_id"):
                raise
            raise SystemicError(
                f"interrupted here; Dataflow job {sent['job_id']} goes on, and publishes by itself; `gcloud dataflow "
                f"jobs cancel {sent['job_id']} --project {sent['project']} --region {sent['region']}` ends it, and "
                f"{RESUMES}"
            ) from None


def describe_job(beam_args: Sequence[str], build: Callable[[beam.Pipeline], object]) -> dict[str, Any]:
    """Returns the job that would be sent, as the service's JSON. Stages and sends nothing. Raises RequestError."""
    with packaged(beam_args) as whole, _refusals({}):
        pipeline = make_pipeline([*whole, "--dry_run=True"])
        build(pipeline)
        job = vars(pipeline.run())["job"]
        job.options.view_as(TestOptions).dry_run = False
        _complete(job)
        return dict(json.loads(job.json()))


def _complete(job: Any) -> None:
    """Completes a job's description with Beam's client, without its uploads of files and the pipeline."""
    from apache_beam.runners.dataflow.internal import apiclient

    class Describer(apiclient.DataflowApplicationClient):
        def __init__(self, options: PipelineOptions) -> None:
            self.google_cloud_options = options.view_as(GoogleCloudOptions)
            self.environment_version = apiclient._FNAPI_ENVIRONMENT_MAJOR_VERSION
            self._sdk_image_overrides = self._get_sdk_image_overrides(options)

        def _gcs_file_copy(self, *_: Any) -> None: ...

        def stage_file_with_retry(self, *_: Any, **__: Any) -> None: ...

    Describer(job.options).create_job_description(job)


@contextmanager
def packaged(beam_args: Sequence[str]) -> Iterator[list[str]]:
    """Yields Beam's flags plus this code as a package for workers, unless the flags send it already."""
    setup = PipelineOptions(list(beam_args)).view_as(SetupOptions)
    names = [path.rsplit("/", 1)[-1] for path in setup.extra_packages or []]
    if setup.setup_file or any(name.startswith(f"{NAME}-") for name in names):
        yield list(beam_args)
        return
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as folder, _silenced(STAGER_LOG):
        yield [*beam_args, f"--extra_package={build_wheel(folder)}"]


def _sent(beam_args: Sequence[str], result: Any) -> dict[str, Any]:
    cloud = (getattr(result, "_options", None) or PipelineOptions(list(beam_args))).view_as(
        GoogleCloudOptions
    )
    job_id = result.job_id() if result.has_job else None
    where = f"{cloud.region}/{job_id}?project={cloud.project}"
    return {
        "job_id": job_id,
        "job_name": cloud.job_name,
        "project": cloud.project,
        "region": cloud.region,
        "console": f"https://console.cloud.google.com/dataflow/jobs/{where}" if job_id else None,
        "template": cloud.template_location,
        "sent": now(),
    }


@contextmanager
def _refusals(sent: dict[str, Any]) -> Iterator[None]:
    """Converts errors of Beam and Google's libraries to ours, one sentence each."""
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except CaptionbeamError:
        raise
    except DataflowRuntimeException as err:
        raise SystemicError(_ended(sent, err)) from err
    except GoogleAPICallError as err:
        raise SystemicError(
            f"Google Cloud refused the request: {err.message}; expected the API enabled, and the right to it"
        ) from err
    except GoogleAuthError as err:
        raise RequestError(
            f"no credentials for Google Cloud ({str(err).partition('. ')[0]}); expected those of `gcloud auth "
            "application-default login`, or of a service account"
        ) from err
    except (ValueError, SyntaxError, RuntimeError) as err:  # Beam does not accept an option or a file
        raise RequestError(f"Beam refuses the job: {' '.join(str(err).split())}") from err


def _ended(sent: dict[str, Any], error: Exception) -> str:
    """Returns a job's end as a sentence; of a long message the last line, which has a worker's error."""
    head, _, message = str(error).partition("Error:\n")
    state = head.partition("State: ")[2].partition(",")[0]
    lines = [line.strip() for line in message.splitlines() if line.strip() not in ("", "None")]
    cause = f" ({lines[-1]})" if lines else ""
    ended = {"FAILED": "failed", "CANCELLED": "was cancelled"}.get(state, f"ended as {state}")
    return f"Dataflow job {sent.get('job_id')} {ended}{cause}; see {sent.get('console')}; {RESUMES}"


class _StateLines(logging.Handler):
    """Prints a job's states and warnings, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if " is in state JOB_STATE_" in text:
            say(f"Dataflow: {text.rpartition('JOB_STATE_')[2].lower().replace('_', ' ')}", to_error=True)
        elif record.levelno == logging.WARNING:
            say(f"Dataflow: {' '.join(text.split())}", to_error=True)


@contextmanager
def _progress_lines() -> Iterator[None]:
    """Shows a job's progress. Its errors, which Beam logs too, are reported once, at the end."""
    runner, lines = logging.getLogger(RUNNER_LOG), _StateLines()
    before = runner.level, runner.propagate
    runner.setLevel(logging.INFO)
    runner.propagate = False
    runner.addHandler(lines)
    try:
        with _silenced(CLIENT_LOG):
            yield
    finally:
        runner.removeHandler(lines)
        runner.setLevel(before[0])
        runner.propagate = before[1]


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Silences a Beam logger: its client's errors are reported by us, and its stager warns of any wheel."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
