"""A job on Dataflow: sent, waited for, and its end told in one sentence; or only looked at."""

from __future__ import annotations

import json
import logging
import sys
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
from captionbeam.pipelines.bulk.run import now
from captionbeam.pipelines.runners.runner import make_pipeline, run_pipeline
from captionbeam.schemas.errors import CaptionbeamError, RequestError, SystemicError
from captionbeam.schemas.storage import files

RUNNER_LOG = "apache_beam.runners.dataflow.dataflow_runner"
STAGER_LOG = "apache_beam.runners.portability.stager"
CLIENT_LOG = "apache_beam.runners.dataflow.internal.apiclient"
GOES_ON = "the same command goes on from there"


def run_on_dataflow(
    beam_args: Sequence[str], build: Callable[[beam.Pipeline], object], record_url: str, about: dict[str, Any]
) -> None:
    """Send the job, write ``record_url``, wait. Raises SystemicError where it was refused or failed, RequestError.

    The record is ``about``, with the job's id, its name and where it is watched.
    """
    sent: dict[str, Any] = {}

    def submitted(result: PipelineResult) -> None:
        sent.update(about, **_sent(beam_args, result))
        files.write_atomic(record_url, files.json_bytes(sent))
        if sent["job_id"]:
            print(f"Dataflow job {sent['job_id']}: {sent['console']}", flush=True)

    with packaged(beam_args) as whole, _refusals(sent), _messages():
        _check_credentials(beam_args)
        try:
            run_pipeline(whole, build, submitted)
        except KeyboardInterrupt:
            if not sent.get("job_id"):
                raise
            raise SystemicError(
                f"interrupted here; Dataflow job {sent['job_id']} goes on, and publishes by itself; `gcloud dataflow "
                f"jobs cancel {sent['job_id']} --project {sent['project']} --region {sent['region']}` ends it, and "
                f"{GOES_ON}"
            ) from None


def _check_credentials(beam_args: Sequence[str]) -> None:
    """Beam looks for them a minute long, a traceback each time."""
    import google.auth

    if not PipelineOptions(list(beam_args)).view_as(GoogleCloudOptions).no_auth:
        google.auth.default()


def look_at_job(beam_args: Sequence[str], build: Callable[[beam.Pipeline], object]) -> dict[str, Any]:
    """The job that would be sent, as the service's JSON has it. Nothing is staged or sent. Raises RequestError."""
    with packaged(beam_args) as whole, _refusals({}):
        pipeline = make_pipeline([*whole, "--dry_run=True"])
        build(pipeline)
        job = vars(pipeline.run())["job"]
        job.options.view_as(TestOptions).dry_run = False
        _describe(job)
        found: dict[str, Any] = json.loads(job.json())
        return found


def _describe(job: Any) -> None:
    """Complete a job as Beam's client does, which stages files and the pipeline on the way: here they go nowhere."""
    from apache_beam.runners.dataflow.internal import apiclient

    class Looking(apiclient.DataflowApplicationClient):
        def __init__(self, options: PipelineOptions) -> None:
            self.google_cloud_options = options.view_as(GoogleCloudOptions)
            self.environment_version = apiclient._FNAPI_ENVIRONMENT_MAJOR_VERSION
            self._sdk_image_overrides = self._get_sdk_image_overrides(options)

        def _gcs_file_copy(self, *_: Any) -> None: ...

        def stage_file_with_retry(self, *_: Any, **__: Any) -> None: ...

    Looking(job.options).create_job_description(job)


@contextmanager
def packaged(beam_args: Sequence[str]) -> Iterator[list[str]]:
    """Beam's flags, with this code as a package for the workers unless the flags send it themselves."""
    setup = PipelineOptions(list(beam_args)).view_as(SetupOptions)
    names = [path.rsplit("/", 1)[-1] for path in setup.extra_packages or []]
    if setup.setup_file or any(name.startswith(f"{NAME}-") for name in names):
        yield list(beam_args)
        return
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as folder, _unsaid(STAGER_LOG):
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
    """Raise what Beam and Google's libraries raise as one sentence of ours."""
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
    except ValueError as err:  # Beam's validator
        if "validations errors" not in str(err):
            raise
        said = "; ".join(line.strip() for line in str(err).splitlines()[1:] if line.strip())
        raise RequestError(f"the options do not suit Dataflow: {said}") from err


def _ended(sent: dict[str, Any], error: Exception) -> str:
    """Of a long message the last line: where a worker raised, that is what it raised."""
    head, _, message = str(error).partition("Error:\n")
    state = head.partition("State: ")[2].partition(",")[0]
    lines = [line.strip() for line in message.splitlines() if line.strip() not in ("", "None")]
    said = f" ({lines[-1]})" if lines else ""
    ended = {"FAILED": "failed", "CANCELLED": "was cancelled"}.get(state, f"ended as {state}")
    return f"Dataflow job {sent.get('job_id')} {ended}{said}; see {sent.get('console')}; {GOES_ON}"


class _Told(logging.Handler):
    """States and warnings of a job, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if " is in state JOB_STATE_" in text:
            print(f"Dataflow: {text.rpartition('JOB_STATE_')[2].lower().replace('_', ' ')}", file=sys.stderr)
        elif record.levelno == logging.WARNING:
            print(f"Dataflow: {' '.join(text.split())}", file=sys.stderr)


@contextmanager
def _messages() -> Iterator[None]:
    """Show how a job fares. Its errors, which Beam logs too, are said once, at the end."""
    runner, told = logging.getLogger(RUNNER_LOG), _Told()
    before = runner.level, runner.propagate
    runner.setLevel(logging.INFO)
    runner.propagate = False
    runner.addHandler(told)
    try:
        with _unsaid(CLIENT_LOG):
            yield
    finally:
        runner.removeHandler(told)
        runner.setLevel(before[0])
        runner.propagate = before[1]


@contextmanager
def _unsaid(name: str) -> Iterator[None]:
    """Keep a logger of Beam's silent: of its client, whose errors we say; of its stager, which warns of any wheel."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
