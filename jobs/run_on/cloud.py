"""Validates the options of Dataflow itself, before anything is read or sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from captionbeam.jobs.options.shared import require
from captionbeam.jobs.run_on.gpus import MANY_PROCESSES, ONE_PROCESS
from captionbeam.jobs.run_on.images import check_image
from captionbeam.jobs.run_on.labels import all_labels, check_job_name, own_labels, user_labels

DATAFLOW = "DataflowRunner"
AT_LEAST_ONE = ("disk_size_gb", "number_of_worker_harness_threads", "num_workers", "max_num_workers")
OLD_SERVICE = (
    "disable_runner_v2", "disable_runner_v2_until_2023", "disable_runner_v2_until_v2.50", "disable_prime_runner_v2",
)  # fmt: skip


def check_cloud(parsed: PipelineOptions, gpu: str | None) -> None:
    """Raises RequestError for missing, invalid or exclusive options."""
    given = parsed.get_all_options()
    require(given["project"], f"{DATAFLOW} needs a project; expected --project")
    _check_staging(given)
    all_labels(own_labels("", "", ""), user_labels(given["labels"]))
    if given["job_name"] is not None:
        check_job_name(given["job_name"])
    for name in AT_LEAST_ONE:
        value = given[name]
        require(value is None or value >= 1, f"--{name} is {value}; expected 1 or more")
    check_image(given["sdk_container_image"])
    _check_experiments(given["experiments"] or [])
    hints = given["resource_hints"]
    require(
        gpu is None or not hints,
        f"--resource_hints {(hints or [None])[0]} beside --gpu {gpu}: the service takes no accelerator of a job and "
        "hints together; expected one of them",
    )


def _check_staging(given: Mapping[str, Any]) -> None:
    names = ("temp_location", "staging_location")
    require(
        any(given[name] for name in names),
        f"{DATAFLOW} needs a place for what it sends; expected --temp_location gs://BUCKET/FOLDER",
    )
    for name in names:
        require(
            not given[name] or given[name].startswith("gs://"),
            f"--{name} {given[name]} is not in a bucket; expected gs://BUCKET/FOLDER",
        )


def _check_experiments(there: list[str]) -> None:
    require(
        not {ONE_PROCESS, MANY_PROCESSES} <= set(there),
        f"--experiments {ONE_PROCESS} contradicts --experiments {MANY_PROCESSES}; expected one of them",
    )
    for name in OLD_SERVICE:
        require(
            name not in there,
            f"--experiments {name} asks for a Dataflow that Beam no longer sends to; expected to leave it out",
        )
