"""Print a schedule of nightly refreshes for Airflow, Kubernetes or Cloud Scheduler."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from captionbeam.jobs.options.shared import natural, positive
from captionbeam.jobs.options.storage import add_storage_options
from captionbeam.jobs.schedules import airflow, cloud_scheduler, cronjob
from captionbeam.jobs.schedules.steps import check_refresh, nightly_refresh

HELP = """\
  captionbeam schedule airflow photos/ --name photos --features features --features-options='--encoder resnet50'

Prints a schedule that keeps a features store, a captions store or both up to date: refresh, verify, promote a tag
every night; vacuum and verify every week. Options that the jobs do not know are refused here; what else a refresh
needs (encoder, bundle, runner) its --dry-run looks at.
Each SCHEDULER --help opens with a command to paste.
"""


class Scheduler(NamedTuple):
    """One scheduler: description, help, own options, and the function that returns its text."""

    about: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    text: Callable[..., str]


SCHEDULERS = {
    "airflow": Scheduler("DAGs in one file", airflow.HELP, airflow.add_options, airflow.text),
    "cronjob": Scheduler("Kubernetes CronJobs", cronjob.HELP, cronjob.add_options, cronjob.text),
    "cloud-scheduler": Scheduler(
        "gcloud commands that launch a Dataflow Flex Template",
        cloud_scheduler.HELP,
        cloud_scheduler.add_options,
        cloud_scheduler.text,
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds a subparser per scheduler."""
    schedulers = parser.add_subparsers(
        title="schedulers", dest="scheduler", metavar="SCHEDULER", required=True, prog=parser.prog
    )
    for name, scheduler in SCHEDULERS.items():
        one = schedulers.add_parser(
            name,
            help=scheduler.about,
            description=scheduler.help,
            usage=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add_stores(one)
        add_storage_options(one)
        _add_times(one.add_argument_group("when"))
        scheduler.add_options(one)


def _add_stores(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="where the images are")
    parser.add_argument("--name", required=True, metavar="NAME", help="of the schedule")
    parser.add_argument("--features", metavar="STORE", help="the features store to keep up to date")
    parser.add_argument(
        "--features-options",
        default="",
        metavar="'OPTIONS'",
        help="of `captionbeam refresh` for it, in one word: --features-options='--encoder efficientnet_lite0'",
    )
    parser.add_argument(
        "--captions",
        metavar="STORE",
        help="the captions store to keep up to date, from the features if there are any, else from SOURCE",
    )
    parser.add_argument("--bundle", metavar="BUNDLE", help="the trained captioner")
    parser.add_argument(
        "--captions-options",
        default="",
        metavar="'OPTIONS'",
        help="likewise for the captions: --captions-options='--beam 3'",
    )
    parser.add_argument(
        "--promote", metavar="TAG", help="of the last store: moved to its snapshot when all went well"
    )
    parser.add_argument(
        "--verify",
        choices=("nightly", "weekly"),
        default="nightly",
        metavar="WHEN",
        help="the last store is read whole before the tag moves: nightly, or only weekly (default nightly)",
    )
    parser.add_argument(
        "--keep", type=positive, default=14, metavar="N", help="snapshots that vacuum leaves (default 14)"
    )


def _add_times(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--cron", default="0 2 * * *", metavar="'M H D M W'", help="(default '0 2 * * *')")
    group.add_argument(
        "--upkeep-cron",
        default="0 12 * * 0",
        metavar="'M H D M W'",
        help="of vacuum and verify (default '0 12 * * 0')",
    )
    group.add_argument("--time-zone", default="UTC", metavar="ZONE", help="of both (default UTC)")
    group.add_argument(
        "--timeout",
        type=positive,
        default=12 * 3600,
        metavar="SECONDS",
        help="after which a task, on Kubernetes a whole plan, is ended (default 12 hours)",
    )
    group.add_argument(
        "--retries",
        type=natural,
        default=3,
        metavar="N",
        help="of what fails but is no wrong request (default 3)",
    )


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Validates and prints the schedule; ``beam_args`` is empty, since no pipeline runs."""
    plan = nightly_refresh(options)
    check_refresh(plan)
    print(SCHEDULERS[options.scheduler].text(plan, options), end="")
    return 0
