"""Runs a pipeline on a target, or prints what would run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

from captionbeam.jobs.run_on.target import RunTarget
from captionbeam.jobs.ui.terminal import note, say
from captionbeam.pipelines.runners import clusters
from captionbeam.pipelines.runners.runner import is_handed_over, make_pipeline, run_pipeline
from captionbeam.schemas.formats.tokens import LAUNCH
from captionbeam.schemas.storage import files

Build = Callable[[beam.Pipeline], object]


def run_on(target: RunTarget, build: Build, job: str, run_id: str, store: str, folder: str) -> bool:
    """Runs the pipeline and waits; returns False if it was only written as a template or jar for a later start.

    On Dataflow the launch's record goes to ``folder``. Raises the errors of the pipeline's workers, SystemicError.
    """
    arguments = target.arguments(job, run_id, store)
    for text in target.notes:
        note(text)
    if target.on_dataflow:
        from captionbeam.jobs.run_on.dataflow import run_on_dataflow

        run_on_dataflow(arguments, build, files.join(folder, LAUNCH), {"runner": target.record})
    else:
        run_pipeline(arguments, build)
    if not is_handed_over(arguments):
        return True
    jar = clusters.executable_path(arguments)
    if jar is not None:
        say(clusters.submit_line(jar, arguments))
    else:
        say(f"the job is written, not run: its last step will publish {store}")
    return False


def print_dry(
    target: RunTarget, build: Build, job: str, run_id: str, store: str, about: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Returns and prints as JSON what would run: Dataflow's job, or else ``about`` and the steps.

    Notes go to standard error. Raises RequestError if ``store`` is not writable.
    """
    files.check_local_writable(store)
    arguments = target.arguments(job, run_id, store)
    for text in target.notes:
        note(text, to_error=True)
    if target.on_dataflow:
        from captionbeam.jobs.run_on.dataflow import describe_job

        found: Mapping[str, Any] = describe_job(arguments, build)
    else:
        found = {"runner": target.record, **about, "steps": steps(build)}
    say(json.dumps(found, indent=1, sort_keys=True))
    say("dry run: nothing was written, sent or run", to_error=True)
    return found


def steps(build: Build) -> list[str]:
    """Returns the pipeline's top-level steps, in order."""
    pipeline, found = make_pipeline(), _Outermost()
    build(pipeline)
    pipeline.visit(found)
    return found.labels


class _Outermost(PipelineVisitor):
    def __init__(self) -> None:
        self.labels: list[str] = []

    def enter_composite_transform(self, node: AppliedPTransform) -> None:
        self.visit_transform(node)

    def visit_transform(self, node: AppliedPTransform) -> None:
        if node.full_label and "/" not in node.full_label:
            self.labels.append(node.full_label)
