"""The options that all schedules share."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.ui.terminal import say
from captionbeam.schemas.options import NATURAL, POSITIVE, STORE, number, one_of, option, text

CRON = text("'M H D M W'")
OPTIONS = text("'OPTIONS'")


def render(template: str, values: Mapping[str, Any]) -> str:
    """Returns the text of ``jobs/templates/TEMPLATE``, in which the filter ``quote`` quotes for a shell."""
    import jinja2

    loader = jinja2.PackageLoader("captionbeam.jobs")
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined)
    environment.filters |= {"json": json.dumps, "quote": lambda value: shlex.quote(str(value))}
    return environment.get_template(template).render(values) + "\n"


@dataclass(frozen=True, kw_only=True)
class ScheduleTimes:
    """When the steps run."""

    GROUP = "when"

    cron: str = option("0 2 * * *", "when the stores are refreshed", CRON)
    upkeep_cron: str = option("0 12 * * 0", "when vacuum and verify run", CRON)
    time_zone: str = option("UTC", "time zone of both", text("ZONE"))
    timeout: int = option(
        12 * 3600,
        "time limit of a task, on Kubernetes of a whole night",
        number(1, whole=True, unit="SECONDS"),
    )
    retries: int = option(3, "retries of steps that fail, except for wrong requests", NATURAL)


@dataclass(frozen=True, kw_only=True)
class Schedule(ScheduleTimes, Command):
    """A schedule that keeps a features store, a captions store or both up to date. ``run`` prints it."""

    GROUP = ""

    sources: tuple[str, ...] = option((), "where the images are", text("SOURCE"), positional=True)
    schedule_name: str = option(..., "name of the schedule", flag="--name")
    features: str | None = option(None, "features store to keep up to date", STORE)
    features_options: str = option(
        "",
        "options of captionbeam refresh for it, in one word: --features-options='--encoder efficientnet_lite0'",
        OPTIONS,
    )
    captions: str | None = option(
        None, "captions store to keep up to date, from the features if there are any, else from SOURCE", STORE
    )
    bundle: str | None = option(
        None, "the trained captioner; for another, --captioner in --captions-options", text("BUNDLE")
    )
    captions_options: str = option("", "likewise for the captions: --captions-options='--beam 3'", OPTIONS)
    promote: str | None = option(
        None, "tag of the last store, moved to its snapshot when all steps succeeded", text("TAG")
    )
    verify: str = option(
        "nightly",
        "the last store is read completely before the tag moves: nightly, or only weekly",
        one_of("nightly", "weekly", unit="WHEN"),
    )
    keep: int = option(14, "snapshots that vacuum keeps", POSITIVE)

    def run(self) -> Result:
        """Prints the schedule. The storage options are those of its steps: nothing is read here."""
        return self.execute()

    def execute(self) -> Result:
        """Validates the steps and prints the schedule; its text is in the result's totals."""
        from captionbeam.jobs.schedules.steps import check_refresh, resolve

        plan = resolve(self)
        check_refresh(plan)
        text = plan.text()
        say(text.rstrip("\n"))
        return Result(totals={"text": text})

    def text(self) -> str:
        """Returns the text of the schedule, whose paths are absolute. Raises RequestError."""
        raise NotImplementedError
