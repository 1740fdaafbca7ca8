"""Vertex AI: a custom job of one or two worker pools (the first machine, the others). Locations are in buckets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options.shared import require
from captionbeam.jobs.submit.target_options import TargetOptions, pairs
from captionbeam.jobs.submit.training_target import Job, Order, Phase, State, TrainingTarget, remote_place
from captionbeam.schemas.errors import RequestError, SystemicError

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1 import CustomJob, JobServiceClient

RUN_LABEL = "captionbeam-run"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
WAITING = {"JOB_STATE_QUEUED", "JOB_STATE_PENDING", "JOB_STATE_PAUSED", "JOB_STATE_UNSPECIFIED"}
RUNNING = {"JOB_STATE_RUNNING", "JOB_STATE_UPDATING", "JOB_STATE_CANCELLING"}


class Vertex(TrainingTarget):
    """Uses the SDK's job service, over REST."""

    name, title = "vertex", "Vertex AI"
    secrets = "a file in a bucket that --service-account reads"

    def check(self, flags: TargetOptions) -> None:
        for name in ("region", "machine_type", "image"):
            flag = name.replace("_", "-")
            require(bool(getattr(flags, name)), f"--on vertex needs --{flag}, which has no default")
        require(
            not flags.gpus or bool(flags.accelerator),
            f"--gpus {flags.gpus} needs --accelerator, which says of what type; expected such as NVIDIA_L4",
        )
        from google.cloud.aiplatform_v1 import AcceleratorType

        known = list(AcceleratorType.__members__)[1:]
        require(
            flags.accelerator in (None, *known),
            f"--accelerator is {flags.accelerator!r}; expected one of {', '.join(known)}",
        )

    def on_workers(self, place: str, flags: TargetOptions) -> str:
        return remote_place(place, self.title, "a bucket's URL, such as gs://BUCKET/features")

    def logs_on_workers(self, place: str | None, name: str, flags: TargetOptions) -> str | None:
        if place is None and flags.staging_bucket:
            return f"/gcs/{_staging(flags.staging_bucket, name).removeprefix('gs://')}/logs"
        if place is not None and not place.startswith("/gcs/"):
            raise RequestError(
                f"--logs is {place!r}; expected a folder below /gcs/BUCKET, where workers see a bucket"
            )
        return place

    def request(self, order: Order) -> str:
        from google.cloud.aiplatform_v1 import CustomJob

        project = order.flags.project or os.environ.get("GOOGLE_CLOUD_PROJECT", "(of the credentials)")
        body = json.loads(CustomJob.to_json(custom_job(order), use_integers_for_enums=False,
                                            always_print_fields_with_no_presence=False))  # fmt: skip
        return json.dumps({"parent": _parent(project, order.flags), "customJob": body}, indent=2)

    def find_active(self, order: Order) -> Job | None:
        client, project = _client(order.flags)
        with _refusals("customJobs.list"):
            ours = {"parent": _parent(project, order.flags), "filter": f'labels.{RUN_LABEL}="{order.name}"'}
            found = client.list_custom_jobs(request=ours)
            active = (_job(job) for job in found if _as_state(job).phase in (Phase.WAITING, Phase.RUNNING))
            return next(active, None)

    def submit(self, order: Order) -> Job:
        client, project = _client(order.flags)
        with _refusals("customJobs.create"):
            return _job(
                client.create_custom_job(parent=_parent(project, order.flags), custom_job=custom_job(order))
            )

    def state(self, job: Job, order: Order) -> State:
        client, _ = _client(order.flags)
        with _refusals("customJobs.get"):
            return _as_state(client.get_custom_job(name=job.id))


def custom_job(order: Order) -> CustomJob:
    """Returns the job for the service."""
    from google.cloud.aiplatform_v1 import CustomJob, CustomJobSpec, GcsDestination

    flags = order.flags
    pools = [_pool(order, 1), *([_pool(order, order.nodes - 1)] if order.nodes > 1 else [])]
    spec = CustomJobSpec(
        worker_pool_specs=pools,
        scheduling=_scheduling(flags),
        service_account=flags.service_account,
        network=flags.network,
    )
    if flags.staging_bucket:
        place = _staging(flags.staging_bucket, order.name)
        spec.base_output_directory = GcsDestination(output_uri_prefix=place)
    labels = {**pairs(flags.label), RUN_LABEL: order.name}
    return CustomJob(display_name=order.name, job_spec=spec, labels=labels)


def _pool(order: Order, replicas: int) -> Any:
    from google.cloud.aiplatform_v1 import ContainerSpec, DiskSpec, EnvVar, MachineSpec, WorkerPoolSpec

    flags = order.flags
    gpus = {"accelerator_type": flags.accelerator, "accelerator_count": flags.gpus or 1}
    return WorkerPoolSpec(
        machine_spec=MachineSpec(machine_type=flags.machine_type, **(gpus if flags.accelerator else {})),
        replica_count=replicas,
        disk_spec=DiskSpec(boot_disk_type="pd-ssd", boot_disk_size_gb=flags.boot_disk_gb),
        container_spec=ContainerSpec(
            image_uri=flags.image,
            command=list(order.command),
            env=[EnvVar(name=name, value=value) for name, value in pairs(flags.env).items()],
        ),
    )


def _scheduling(flags: TargetOptions) -> Any:
    """Returns the scheduling: if a machine is preempted, all restart and resume from the checkpoints."""
    from google.cloud.aiplatform_v1 import Scheduling

    chosen: dict[str, Any] = {"restart_job_on_worker_restart": True}
    if flags.spot:
        chosen["strategy"] = Scheduling.Strategy.SPOT
    if flags.max_hours:
        chosen["timeout"] = timedelta(seconds=max(1, round(flags.max_hours * 3600)))
    return Scheduling(**chosen)


def _staging(bucket: str, name: str) -> str:
    return f"{bucket.rstrip('/')}/{name}"


def _parent(project: str, flags: TargetOptions) -> str:
    return f"projects/{project}/locations/{flags.region}"


def _client(flags: TargetOptions) -> tuple[JobServiceClient, str]:
    """Returns the service's client and the project. Raises SystemicError if there are no credentials."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.aiplatform_v1 import JobServiceClient

    try:
        credentials, default = google.auth.default(scopes=[SCOPE])
    except GoogleAuthError as err:
        raise SystemicError(f"no credentials for Vertex AI: {err}") from err
    project = str(flags.project or default or "")
    require(bool(project), "--on vertex needs --project, since the credentials are of none")
    endpoint = flags.vertex_endpoint or f"{flags.region}-aiplatform.googleapis.com"
    options = {"api_endpoint": endpoint}
    return JobServiceClient(credentials=credentials, transport="rest", client_options=options), project


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Converts the service's errors: RequestError for a wrong request, SystemicError for others."""
    import requests
    from google.api_core.exceptions import ClientError, GoogleAPIError, TooManyRequests, Unauthorized
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except (TooManyRequests, Unauthorized) as err:
        raise SystemicError(f"Vertex AI refuses {what}: {err}") from err
    except ClientError as err:
        raise RequestError(f"Vertex AI refuses {what}: {err}") from err
    except (GoogleAPIError, GoogleAuthError, requests.RequestException) as err:
        raise SystemicError(f"Vertex AI does not answer {what}: {err}") from err


def _job(job: CustomJob) -> Job:
    _, project, _, region, _, number = job.name.split("/")
    console = "https://console.cloud.google.com/vertex-ai"
    return Job(job.name, f"{console}/locations/{region}/training/{number}?project={project}")


def _as_state(job: CustomJob) -> State:
    name = job.state.name
    if name == "JOB_STATE_SUCCEEDED":
        return State(Phase.DONE, name)
    if name in WAITING or name in RUNNING:
        return State(Phase.WAITING if name in WAITING else Phase.RUNNING, name)
    return State(Phase.FAILED, f"{name}{': ' if job.error.message else ''}{job.error.message}")


TARGET = Vertex()
