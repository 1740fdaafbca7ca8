"""Writes the DAG file for Airflow: ``airflow_dag.py`` with the schedule filled in."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files as resources
from pprint import pformat

from captionbeam.jobs.schedules.schedule import Schedule
from captionbeam.jobs.schedules.steps import (
    bulk_steps,
    nightly_steps,
    refuse_words,
    upkeep_steps,
)
from captionbeam.schemas.options import SECONDS, option, text

EMPTY = "SCHEDULE: dict[str, Any] = {}\n"


@dataclass(frozen=True, kw_only=True)
class AirflowSchedule(Schedule):
    """Prints a schedule for Airflow: DAGs in one file."""

    GROUP = "airflow"
    HELP = """\
  captionbeam schedule airflow /data/photos --name photos --features /data/features \\
    --features-options='--encoder efficientnet_lite0' --captions /data/captions --bundle /data/bundle \\
    --promote prod --command /opt/captionbeam/bin/captionbeam > dags/captionbeam_photos.py

Prints a file for the dags/ folder of Airflow 3, with three DAGs: captionbeam_NAME every night, captionbeam_NAME_upkeep
every week, captionbeam_NAME_bulk by hand for the images of any sources. Airflow's environment needs no captionbeam:
the tasks run the console script at --command. What holds {{ }} is filled in by Airflow when a task runs, so that
'{{ var.value.photos }}' is a Variable.
"""
    name = "schedule airflow"

    command: str = option("captionbeam", "the console script", text("PATH"))
    retry_delay: float = option(
        300.0, "pause before the first retry, doubled for each after it, up to an hour", SECONDS
    )

    def text(self) -> str:
        """Returns the text of the DAG file."""
        for tag in ("{%", "{#"):
            refuse_words(self, tag, "which Airflow takes for a template's")
        source = resources("captionbeam.jobs.schedules").joinpath("airflow_dag.py").read_text()
        schedule = pformat(settings(self), sort_dicts=False, width=108, compact=True)
        before, found, after = source.partition(EMPTY)
        assert found, "airflow_dag.py has lost its SCHEDULE"
        return f"{before}SCHEDULE: dict[str, Any] = {schedule}\n{after}"


def settings(options: AirflowSchedule) -> dict[str, object]:
    """Returns the settings of the DAGs."""
    made = "{{ ti.xcom_pull('captions')['snapshot'] }}"
    return {
        "name": options.schedule_name,
        "command": options.command,
        "cron": options.cron,
        "upkeep_cron": options.upkeep_cron,
        "time_zone": options.time_zone,
        "timeout_seconds": options.timeout,
        "retries": options.retries,
        "retry_seconds": options.retry_delay,
        "nightly": nightly_steps(options, made if options.captions else made.replace("captions", "features")),
        "upkeep": upkeep_steps(options),
        "bulk": bulk_steps(options, "{{ params.output }}"),
    }
