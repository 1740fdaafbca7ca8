"""Cloud Scheduler: launches the Flex Template on Dataflow, and Cloud Run jobs for small steps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from captionbeam.jobs.schedules.schedule import CRON, Schedule, render
from captionbeam.jobs.schedules.steps import (
    TEMPLATE,
    Steps,
    nightly_steps,
    places,
    refresh_steps,
    refuse_words,
    stores_of,
    upkeep_steps,
)
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import URL, option, text

DATAFLOW = "https://dataflow.googleapis.com/v1b3/projects/{project}/locations/{region}/flexTemplates:launch"
RUN = "https://run.googleapis.com/v2/projects/{project}/locations/{region}/jobs/{name}:run"


@dataclass(frozen=True, kw_only=True)
class CloudSchedule(Schedule):
    """Prints a schedule for Cloud Scheduler: gcloud commands that launch a Dataflow Flex Template."""

    GROUP = "google cloud"
    HELP = """\
  captionbeam schedule cloud-scheduler gs://bucket/photos --name photos --features gs://bucket/features \\
    --features-options='--encoder efficientnet_lite0 --gpu l4' --captions gs://bucket/captions \\
    --captions-options='--gpu l4' --bundle gs://bucket/bundle --promote prod --project my-project \\
    --region europe-west4 --worker-image europe-west4-docker.pkg.dev/my-project/captionbeam/flex:1 \\
    --template gs://bucket/templates/captionbeam.json --temp gs://bucket/tmp \\
    --image europe-west4-docker.pkg.dev/my-project/captionbeam/cpu:1 \\
    --service-account captionbeam@my-project.iam.gserviceaccount.com | bash

Prints a script of gcloud commands: each store's refresh is a launch of the Flex Template at a time of its own; verify,
promote and the weekly upkeep are Cloud Run jobs. A launch does what is not done yet, so one that comes before the one
it waits for has ended leaves the rest to the next night.
"""
    name = "schedule cloud-scheduler"

    project: str = option(..., "project of all jobs", text("ID"))
    region: str = option(..., "region of all jobs")
    template: str = option(..., "the Flex Template's specification", URL)
    temp: str = option(..., "location of Dataflow's temporary files", URL)
    image: str = option(..., "image of the Cloud Run jobs", text("IMAGE"))
    worker_image: str | None = option(
        None, "image of Dataflow's workers, which --gpu in the options needs", text("IMAGE")
    )
    service_account: str = option(..., "service account that launches and runs", text("EMAIL"))
    captions_cron: str = option("0 6 * * *", "when captions are refreshed after the features", CRON)
    promote_cron: str = option("0 10 * * *", "when the last store is verified and promoted", CRON)

    def text(self) -> str:
        """Returns the text of the script."""
        _check_paths(self)
        values = {
            **vars(self),
            "name": self.schedule_name,
            "launches": list(launches(self)),
            "tasks": list(tasks(self)),
        }
        return render("cloud_scheduler.sh.j2", values)


def launches(options: CloudSchedule) -> Iterator[dict[str, Any]]:
    """Yields one launch per store: its name, schedule, and Cloud Scheduler's request to Dataflow."""
    for step, arguments in refresh_steps(options).items():
        follows = step == "captions" and options.features
        parameter = {
            "jobName": f"{options.schedule_name}-{step}",  # Dataflow refuses a second active job of this name
            "containerSpecGcsPath": options.template,
            "parameters": template_parameters(arguments, options.worker_image),
            "environment": {
                "serviceAccountEmail": options.service_account,
                "tempLocation": options.temp,
                "stagingLocation": options.temp,
            },
        }
        yield {
            "name": parameter["jobName"],
            "about": " ".join(f"captionbeam {shlex.join(arguments)}".split()),
            "cron": options.captions_cron if follows else options.cron,
            "uri": DATAFLOW.format(project=options.project, region=options.region),
            "body": {"launchParameter": parameter},
        }


def template_parameters(arguments: list[str], worker_image: str | None = None) -> dict[str, str]:
    """Returns a refresh as the Flex Template's parameters, quoted for a shell."""
    at = arguments.index("--output")
    listed, output, more = arguments[1:at], arguments[at + 1], arguments[at + 2 :]
    sources, more = ([], [*listed, *more]) if listed[0] == "--features" else (listed, more)
    found = {
        "job": arguments[0],
        "output": output,
        "sources": shlex.join(sources),
        "arguments": shlex.join(more),
    }
    image = {"sdk_container_image": worker_image} if worker_image else {}
    return {name: value for name, value in found.items() if value} | image


def tasks(options: CloudSchedule) -> Iterator[dict[str, Any]]:
    """Yields the Cloud Run jobs of steps without a pipeline."""
    made = refresh_steps(options)
    after = {name: step for name, step in nightly_steps(options).items() if name not in made}
    if after:
        yield _task(options, "promote", options.promote_cron, after)
    yield _task(options, "upkeep", options.upkeep_cron, upkeep_steps(options))


def _task(options: CloudSchedule, suffix: str, cron: str, steps: Steps) -> dict[str, Any]:
    name = f"{options.schedule_name}-{suffix}"
    commands = " && ".join(shlex.join(["captionbeam", *step]) for step in steps.values())
    container = {
        "image": options.image,
        "command": ["sh", "-c", commands],
        "resources": {"limits": {"cpu": "2", "memory": "4Gi"}},
    }
    task = {
        "containers": [container],
        "maxRetries": options.retries,
        "serviceAccountName": options.service_account,
        "timeoutSeconds": str(options.timeout),
    }
    body = {
        "apiVersion": "run.googleapis.com/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {"taskCount": 1, "template": {"spec": task}}}},
    }
    uri = RUN.format(project=options.project, region=options.region, name=name)
    return {"name": name, "about": " ".join(commands.split()), "cron": cron, "uri": uri, "body": body}


def _check_paths(options: CloudSchedule) -> None:
    refuse_words(options, TEMPLATE, "which only Airflow fills in")
    for path in places(options):
        if "://" not in path:
            raise RequestError(f"{path!r} is on this machine, where no worker finds it; expected a URL")
    for store in stores_of(options):
        if not store.startswith("gs://"):
            raise RequestError(f"the store {store!r} is not on gs://; expected what the template takes")
