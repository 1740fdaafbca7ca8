"""Writes the DAG file for Airflow: ``airflow_dag.py`` with the schedule filled in."""

from __future__ import annotations

import argparse
from importlib.resources import files as resources
from pprint import pformat

from captionbeam.jobs.options.shared import seconds
from captionbeam.jobs.schedules.steps import (
    NightlyRefresh,
    bulk_steps,
    nightly_steps,
    refuse_words,
    upkeep_steps,
)

HELP = """\
  captionbeam schedule airflow /data/photos --name photos --features /data/features \\
    --features-options='--encoder efficientnet_lite0' --captions /data/captions --bundle /data/bundle \\
    --promote prod --command /opt/captionbeam/bin/captionbeam > dags/captionbeam_photos.py

Prints a file for the dags/ folder of Airflow 3, with three DAGs: captionbeam_NAME every plan, captionbeam_NAME_upkeep
every week, captionbeam_NAME_bulk by hand for the images of any sources. Airflow's environment needs no captionbeam:
the tasks run the console script at --command. What holds {{ }} is filled in by Airflow when a task runs, so that
'{{ var.value.photos }}' is a Variable.
"""
EMPTY = "SCHEDULE: dict[str, Any] = {}\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of Airflow."""
    group = parser.add_argument_group("airflow")
    group.add_argument(
        "--command", default="captionbeam", metavar="PATH", help="the console script (default: on the PATH)"
    )
    group.add_argument(
        "--retry-delay",
        type=seconds,
        default=300.0,
        metavar="SECONDS",
        help="before the first retry; doubled for each after it, up to an hour (default 300)",
    )


def text(plan: NightlyRefresh, options: argparse.Namespace) -> str:
    """Returns the text of the DAG file."""
    for tag in ("{%", "{#"):
        refuse_words(plan, tag, "which Airflow takes for a template's")
    source = resources("captionbeam.jobs.schedules").joinpath("airflow_dag.py").read_text()
    schedule = pformat(settings(plan, options), sort_dicts=False, width=108, compact=True)
    before, found, after = source.partition(EMPTY)
    assert found, "airflow_dag.py has lost its SCHEDULE"
    return f"{before}SCHEDULE: dict[str, Any] = {schedule}\n{after}"


def settings(plan: NightlyRefresh, options: argparse.Namespace) -> dict[str, object]:
    """Returns the settings of the DAGs."""
    made = "{{ ti.xcom_pull('captions')['snapshot'] }}"
    return {
        "name": options.name,
        "command": options.command,
        "cron": options.cron,
        "upkeep_cron": options.upkeep_cron,
        "time_zone": options.time_zone,
        "timeout_seconds": options.timeout,
        "retries": options.retries,
        "retry_seconds": options.retry_delay,
        "nightly": nightly_steps(plan, made if plan.captions else made.replace("captions", "features")),
        "upkeep": upkeep_steps(plan),
        "bulk": bulk_steps(plan, "{{ params.output }}"),
    }
