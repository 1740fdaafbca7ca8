"""CronJobs for Kubernetes: the steps run as containers of one pod, one after the other."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from captionbeam.jobs.options.shared import natural
from captionbeam.jobs.schedules.steps import (
    TEMPLATE,
    NightlyRefresh,
    Steps,
    nightly_steps,
    places,
    refuse_words,
    upkeep_steps,
)
from captionbeam.jobs.submit.manifests import literal
from captionbeam.schemas.errors import RequestError

HELP = """\
  captionbeam schedule cronjob gs://bucket/photos --name photos --features gs://bucket/features \\
    --features-options='--encoder efficientnet_lite0' --captions gs://bucket/captions --bundle gs://bucket/bundle \\
    --promote prod --image registry/captionbeam:1 --service-account captionbeam | kubectl apply -f -

Prints two CronJobs: NAME every plan, NAME-upkeep every week. A wrong request is not tried again, a lost node does not
count, and many failed images are no failure (add --warn-failures to the options to make them one, or --max-failures).
Needs Kubernetes 1.31 or newer. Paths are URLs, or lie on the volume claim that is mounted at --mount.
"""
MOUNT = "/data"
TOTALS = "/dev/termination-log"  # every container has this file; the kubelet shows its content


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of Kubernetes."""
    group = parser.add_argument_group("kubernetes")
    group.add_argument("--image", required=True, metavar="IMAGE", help="with captionbeam on its PATH")
    group.add_argument("--namespace", metavar="NAME", help="(default: kubectl's)")
    group.add_argument("--service-account", metavar="NAME", help="whose rights the pods have")
    group.add_argument("--secret", metavar="NAME", help="that becomes environment variables (S3's keys, ...)")
    group.add_argument(
        "--claim", metavar="NAME", help="a persistent volume claim, for paths that are no URLs"
    )
    group.add_argument("--mount", metavar="PATH", help=f"where it is (default {MOUNT})")
    group.add_argument("--cpu", default="4", metavar="N", help="of each pod (default 4)")
    group.add_argument("--memory", default="8Gi", metavar="SIZE", help="(default 8Gi)")
    group.add_argument("--gpus", type=natural, default=0, metavar="N", help="of each refresh (default 0)")


def text(plan: NightlyRefresh, options: argparse.Namespace) -> str:
    """Returns the manifest in YAML."""
    import jinja2

    mount = options.mount or MOUNT
    _check_paths(plan, mount, bool(options.claim))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("captionbeam.jobs"), undefined=jinja2.StrictUndefined
    )
    environment.filters["json"] = json.dumps
    jobs = [
        _job(options.name, "nightly", options.cron, nightly_steps(plan)),
        _job(f"{options.name}-upkeep", "upkeep", options.upkeep_cron, upkeep_steps(plan)),
    ]
    values = {**vars(options), "jobs": jobs, "timeout": int(options.timeout), "mount": mount}
    return environment.get_template("cronjob.yaml.j2").render(values) + "\n"


def _job(name: str, component: str, cron: str, steps: Steps) -> dict[str, Any]:
    return {"name": name, "component": component, "cron": cron, "steps": list(_containers(steps))}


def _containers(steps: Steps) -> Iterator[dict[str, Any]]:
    for name, arguments in steps.items():
        computes = arguments[0] == "refresh"
        command = ["captionbeam", *arguments, *(_told(arguments) if computes else ())]
        yield {
            "name": name.replace("_", "-"),
            "command": literal(command),  # else the kubelet would expand variables
            "computes": computes,
        }


def _told(arguments: list[str]) -> list[str]:
    """Returns options that avoid exit status 3, which would end the pod, unless the user asked for it."""
    asked = any(word.split("=")[0] == "--warn-failures" for word in arguments)
    return ["--totals", TOTALS, *([] if asked else ["--warn-failures", "1"])]


def _check_paths(plan: NightlyRefresh, mount: str, claimed: bool) -> None:
    refuse_words(plan, TEMPLATE, "which only Airflow fills in")
    for path in places(plan):
        on_claim = claimed and path.startswith(mount.rstrip("/") + "/")
        if "://" not in path and not on_claim:
            raise RequestError(
                f"{path!r} is on this machine, where no pod finds it; expected a URL, or --claim and a path below "
                f"{mount}"
            )
