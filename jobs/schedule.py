"""Print a schedule of nightly refreshes for Airflow, Kubernetes or Cloud Scheduler."""

from __future__ import annotations

from collections.abc import Sequence

from captionbeam.jobs.options.command import Command
from captionbeam.jobs.options.command_line import parse_command
from captionbeam.jobs.schedules.airflow import AirflowSchedule
from captionbeam.jobs.schedules.cloud_scheduler import CloudSchedule
from captionbeam.jobs.schedules.cronjob import CronJobSchedule
from captionbeam.jobs.schedules.schedule import Schedule
from captionbeam.schemas.errors import RequestError

HELP = """\
  captionbeam schedule airflow photos/ --name photos --features features --features-options='--encoder resnet50'

Prints a schedule that keeps a features store, a captions store or both up to date: refresh, verify, promote a tag
every night; vacuum and verify every week. Options that the steps do not know are refused here; the rest of a refresh
(encoder, bundle, runner) is checked by its --dry-run. Each SCHEDULER --help opens with a command to paste.

schedulers:
"""
SCHEDULERS: dict[str, type[Schedule]] = {
    "airflow": AirflowSchedule,
    "cronjob": CronJobSchedule,
    "cloud-scheduler": CloudSchedule,
}


def parse(words: Sequence[str]) -> Command:
    """Returns the command of ``captionbeam schedule WORDS``. Raises RequestError, SystemExit after ``--help``."""
    if not words or words[0] in ("-h", "--help"):
        print(HELP + "\n".join(f"  {name:16} {each.ABOUT}" for name, each in SCHEDULERS.items()))
        raise SystemExit(0)
    if words[0] not in SCHEDULERS:
        raise RequestError(f"there is no scheduler {words[0]!r}; expected one of {', '.join(SCHEDULERS)}")
    return parse_command(SCHEDULERS[words[0]], words[1:])
