"""CronJobs for Kubernetes: the steps run as containers of one pod, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from captionbeam.jobs.schedules.schedule import Schedule, render
from captionbeam.jobs.schedules.steps import (
    TEMPLATE,
    Steps,
    nightly_steps,
    places,
    refuse_words,
    upkeep_steps,
)
from captionbeam.jobs.submit.manifests import literal
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import NATURAL, option, text

TOTALS = "/dev/termination-log"  # every container has this file; the kubelet shows its content


@dataclass(frozen=True, kw_only=True)
class CronJobSchedule(Schedule):
    """Prints a schedule for Kubernetes: CronJobs."""

    GROUP = "kubernetes"
    HELP = """\
  captionbeam schedule cronjob gs://bucket/photos --name photos --features gs://bucket/features \\
    --features-options='--encoder efficientnet_lite0' --captions gs://bucket/captions --bundle gs://bucket/bundle \\
    --promote prod --image registry/captionbeam:1 --service-account captionbeam | kubectl apply -f -

Prints two CronJobs: NAME every night, NAME-upkeep every week. A wrong request is not tried again, a lost node does not
count, and many failed images are no failure (add --warn-failures to the options to make them one, or --max-failures).
Needs Kubernetes 1.31 or newer. Paths are URLs, or lie on the volume claim that is mounted at --mount.
"""
    name = "schedule cronjob"

    image: str = option(..., "image with captionbeam on its PATH", text("IMAGE"))
    namespace: str | None = option(None, "namespace (default: kubectl's)")
    service_account: str | None = option(None, "service account of the pods")
    secret: str | None = option(None, "secret that becomes environment variables (S3's keys, ...)")
    claim: str | None = option(None, "persistent volume claim, for paths that are no URLs")
    mount: str = option("/data", "path at which the claim is mounted", text("PATH"))
    cpu: str = option("4", "CPUs of each pod", text("N"))
    memory: str = option("8Gi", "memory of each pod", text("SIZE"))
    gpus: int = option(0, "GPUs of each refresh", NATURAL)

    def text(self) -> str:
        """Returns the manifests in YAML."""
        _check_paths(self)
        name = self.schedule_name
        planned = (
            (name, "nightly", self.cron, nightly_steps(self)),
            (f"{name}-upkeep", "upkeep", self.upkeep_cron, upkeep_steps(self)),
        )
        jobs = [
            {"name": job, "component": component, "cron": cron, "steps": list(_containers(steps))}
            for job, component, cron, steps in planned
        ]
        return render("cronjob.yaml.j2", {**vars(self), "name": name, "jobs": jobs})


def _containers(steps: Steps) -> Iterator[dict[str, Any]]:
    for name, arguments in steps.items():
        computes = arguments[0] == "refresh"
        command = ["captionbeam", *arguments]
        if computes:  # exit status 3 would end the pod, unless the user asked for it
            asked = any(word.split("=")[0] == "--warn-failures" for word in arguments)
            command += ["--totals", TOTALS, *([] if asked else ["--warn-failures", "1"])]
        yield {
            "name": name.replace("_", "-"),
            "command": literal(command),  # else the kubelet would expand variables
            "computes": computes,
        }


def _check_paths(options: CronJobSchedule) -> None:
    refuse_words(options, TEMPLATE, "which only Airflow fills in")
    for path in places(options):
        on_claim = options.claim and path.startswith(options.mount.rstrip("/") + "/")
        if "://" not in path and not on_claim:
            raise RequestError(
                f"{path!r} is on this machine, where no pod finds it; expected a URL, or --claim and a path below "
                f"{options.mount}"
            )
