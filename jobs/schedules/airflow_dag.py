"""Airflow DAGs that keep captionbeam's stores up to date. Written by `captionbeam schedule airflow`; edit as needed.

For Airflow 3, whose environment does not need captionbeam: every task runs its console script, which may be in another
environment. A task's output is in its log; the run's totals are its XCom.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, BaseOperator, Context, CronTriggerTimetable, Param, chain

SCHEDULE: dict[str, Any] = {}

WRONG_REQUEST, WARNED = 2, 3  # captionbeam's exit statuses besides 0 (done) and 1 (error)
WITH_TOTALS = {"encode", "caption", "refresh"}
REFRESH_PARAMS = {
    "max_deletes": Param(
        None,
        type=["null", "number"],
        minimum=0,
        title="Max deletes",
        description="this run only: publish nothing if more than this share or number of images is gone",
    ),
    "publish_anyway": Param(
        False,
        type="boolean",
        title="Publish anyway",
        description="this run only: publish what was held back because it looks wrong compared with its parent",
    ),
    "retry_failures": Param(
        False,
        type="boolean",
        title="Retry failures",
        description="this run only: also retry permanent failures; transient ones are always retried",
    ),
}
BULK_PARAMS = {
    "sources": Param(
        type="array",
        items={"type": "string"},
        minItems=1,
        title="Sources",
        description="where the images are: folders, zips, lists, buckets; one per line",
    ),
    "output": Param(
        type="string", minLength=1, title="Output", description="the captions store, new or existing"
    ),
}


class Captionbeam(BaseOperator):
    """Runs ``captionbeam ARGUMENTS``, followed by the params named in ``takes``.

    A wrong request (exit status 2) fails without retries; many failed images (3) are a warning; any other status except
    0 fails this try. The same command continues where the last one stopped.
    """

    template_fields: Sequence[str] = ("arguments",)

    def __init__(self, *, arguments: list[str], takes: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = arguments
        self.takes = takes
        self.process = SubprocessHook()

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Runs the command; returns the totals of the run, if it has any."""
        command = [SCHEDULE["command"], *self.arguments]
        for name in self.takes:
            command += as_arguments(name, context["params"][name])
        with TemporaryDirectory() as folder:
            totals = Path(folder) / "totals.json"
            told = ["--totals", str(totals)] if self.arguments[0] in WITH_TOTALS else []
            done = self.process.run_command([*command, *told])
            self.judge(done.exit_code, done.output)
            return json.loads(totals.read_text()) if told else None

    def judge(self, status: int, last_line: str) -> None:
        """Raises Airflow's exception for this exit status."""
        if status == WRONG_REQUEST:
            raise AirflowFailException(last_line)
        if status == WARNED:
            self.log.warning("done, but many images failed: %s", last_line)
        elif status:
            raise AirflowException(f"exit status {status}: {last_line}")

    def on_kill(self) -> None:
        """Stops the command when the task is cleared, marked, or past its execution_timeout."""
        if self.process.sub_process is not None and self.process.sub_process.poll() is None:
            self.process.send_sigterm()


def as_arguments(name: str, value: Any) -> list[str]:
    """Returns a param as arguments: a list's items, a flag or an option by its name, nothing for null."""
    if isinstance(value, list):
        return [str(each) for each in value]
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    return [] if value is None else [flag, str(value)]


def tasks(steps: Mapping[str, list[str]]) -> Iterator[Captionbeam]:
    """Yields one task per step."""
    for name, arguments in steps.items():
        takes = {"refresh": tuple(REFRESH_PARAMS), "caption": ("sources",)}.get(arguments[0], ())
        yield Captionbeam(task_id=name, arguments=arguments, takes=takes)


def make_dag(suffix: str, about: str, cron: str | None, params: Mapping[str, Param] | None = None) -> DAG:
    """Returns the DAG of SCHEDULE's steps, which run one after the other."""
    dag = DAG(
        f"captionbeam_{SCHEDULE['name']}{suffix}",
        description=about,
        doc_md=f"{about}\n\nA run may be late, repeated or killed: the next one continues. See docs/schedules.md.",
        # Zero, as Airflow 3.3 takes False for a tenth of the time between two runs
        schedule=CronTriggerTimetable(cron, timezone=SCHEDULE["time_zone"], run_immediately=timedelta(0))
        if cron
        else None,
        catchup=False,
        max_active_runs=1,
        params=dict(params or {}),
        tags=["captionbeam", SCHEDULE["name"]],
        default_args={
            "retries": SCHEDULE["retries"],
            "retry_delay": timedelta(seconds=SCHEDULE["retry_seconds"]),
            "retry_exponential_backoff": 2,
            "max_retry_delay": timedelta(hours=1),
            "execution_timeout": timedelta(seconds=SCHEDULE["timeout_seconds"]),
        },
    )
    with dag:
        chain(*tasks(SCHEDULE[suffix.strip("_") or "nightly"]))
    return dag


nightly = make_dag("", "Processes new and changed images, in every store.", SCHEDULE["cron"], REFRESH_PARAMS)
upkeep = make_dag(
    "_upkeep", "Verifies the stores and removes old snapshots and unused files.", SCHEDULE["upkeep_cron"]
)
if SCHEDULE["bulk"]:
    bulk = make_dag("_bulk", "Captions the images of given sources; started by hand.", None, BULK_PARAMS)
