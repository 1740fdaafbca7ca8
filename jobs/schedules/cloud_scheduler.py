"""Cloud Scheduler: launches the Flex Template on Dataflow, and Cloud Run jobs for small steps."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from typing import Any

from captionbeam.jobs.schedules.steps import (
    TEMPLATE,
    NightlyRefresh,
    Steps,
    nightly_steps,
    places,
    refresh_steps,
    refuse_words,
    upkeep_steps,
)
from captionbeam.schemas.errors import RequestError

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
it waits for has ended leaves the rest to the next plan.
"""
DATAFLOW = "https://dataflow.googleapis.com/v1b3/projects/{project}/locations/{region}/flexTemplates:launch"
CRONS = {"captions": "0 6 * * *", "promote": "0 10 * * *"}
RUN = "https://run.googleapis.com/v2/projects/{project}/locations/{region}/jobs/{name}:run"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of Google Cloud."""
    group = parser.add_argument_group("google cloud")
    group.add_argument("--project", required=True, metavar="ID", help="where all of it runs")
    group.add_argument("--region", required=True, metavar="NAME", help="likewise")
    group.add_argument("--template", required=True, metavar="URL", help="the template's spec")
    group.add_argument("--temp", required=True, metavar="URL", help="for Dataflow's own files")
    group.add_argument("--image", required=True, metavar="IMAGE", help="of the Cloud Run jobs")
    group.add_argument(
        "--worker-image",
        metavar="IMAGE",
        help="of Dataflow's workers; --gpu in the options needs it",
    )
    group.add_argument("--service-account", required=True, metavar="EMAIL", help="who launches, and runs")
    for step, cron in CRONS.items():
        group.add_argument(
            f"--{step}-cron",
            metavar="'M H D M W'",
            help=f"of {step} (default '{cron}'); --cron is that of the first store",
        )


def text(plan: NightlyRefresh, options: argparse.Namespace) -> str:
    """Returns the text of the script."""
    import jinja2

    _check_paths(plan)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("captionbeam.jobs"), undefined=jinja2.StrictUndefined
    )
    environment.filters["json"] = lambda value: json.dumps(value, indent=1)
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    values = {
        **vars(options),
        "launches": list(launches(plan, options)),
        "tasks": list(tasks(plan, options)),
    }
    return environment.get_template("cloud_scheduler.sh.j2").render(values) + "\n"


def launches(plan: NightlyRefresh, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields one launch per store: its name, schedule, and Cloud Scheduler's request to Dataflow."""
    for step, arguments in refresh_steps(plan).items():
        follows = step == "captions" and plan.features
        parameter = {
            "jobName": f"{options.name}-{step}",  # Dataflow refuses a second active job of this name
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
            "about": comment(f"captionbeam {shlex.join(arguments)}"),
            "cron": (options.captions_cron or CRONS["captions"]) if follows else options.cron,
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


def tasks(plan: NightlyRefresh, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the Cloud Run jobs of steps without a pipeline."""
    made = refresh_steps(plan)
    after = {name: step for name, step in nightly_steps(plan).items() if name not in made}
    if after:
        yield _task(options, "promote", options.promote_cron or CRONS["promote"], after)
    yield _task(options, "upkeep", options.upkeep_cron, upkeep_steps(plan))


def _task(options: argparse.Namespace, suffix: str, cron: str, steps: Steps) -> dict[str, Any]:
    name = f"{options.name}-{suffix}"
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
        "timeoutSeconds": str(int(options.timeout)),
    }
    body = {
        "apiVersion": "run.googleapis.com/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {"taskCount": 1, "template": {"spec": task}}}},
    }
    uri = RUN.format(project=options.project, region=options.region, name=name)
    return {"name": name, "about": comment(commands), "cron": cron, "uri": uri, "body": body}


def comment(text: str) -> str:
    """Returns ``text`` as one line, for a shell comment."""
    return " ".join(text.split())


def _check_paths(plan: NightlyRefresh) -> None:
    refuse_words(plan, TEMPLATE, "which only Airflow fills in")
    for path in places(plan):
        if "://" not in path:
            raise RequestError(f"{path!r} is on this machine, where no worker finds it; expected a URL")
    for store in plan.stores:
        if not store.startswith("gs://"):
            raise RequestError(f"the store {store!r} is not on gs://; expected what the template takes")
