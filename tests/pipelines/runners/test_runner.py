"""Which runner is meant, and how many worker processes share a machine, as far as Beam's options tell it."""

from __future__ import annotations

import logging
import sys

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from captionbeam.pipelines.runners.log_filter import said_once
from captionbeam.pipelines.runners.names import runner_of
from captionbeam.pipelines.runners.runner import runs_in_process, worker_processes
from captionbeam.pipelines.workers.boundary import MARK

APART = ["--direct_running_mode", "multi_processing"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, None),
        ("DirectRunner", "DirectRunner"),
        ("apache_beam.runners.portability.prism_runner.PrismRunner", "PrismRunner"),
        ("my.own.Runner", "Runner"),
    ],
)
def test_a_runner_is_known_however_it_is_written(written, expected):
    assert runner_of(PipelineOptions(["--runner", written] if written else [])) == expected


@pytest.mark.parametrize(("written", "expected"), [("direct", True), ("FnApiRunner", True), ("prism", False)])
def test_beams_own_choice_of_a_local_runner_is_never_taken(written, expected):
    assert runs_in_process(["--runner", written]) is expected


@pytest.mark.parametrize(
    ("beam_args", "expected"),
    [
        ([], 1),
        ([*APART, "--direct_num_workers", "4"], 4),
        (["--runner", "PrismRunner"], 1),
        (["--runner", "FlinkRunner", "--sdk_worker_parallelism", "3"], 3),
        (["--runner", "FlinkRunner", "--sdk_worker_parallelism", "3", "--environment_type", "LOOPBACK"], 1),
        (["--runner", "DataflowRunner"], 0),
    ],
)
def test_worker_processes_of_a_machine(beam_args, expected):
    assert worker_processes(beam_args) == expected


def test_only_errors_of_ours_are_kept_quiet(capsys):
    logger = logging.getLogger("apache_beam.somewhere")
    with said_once():
        print(f"Traceback: {MARK}RequestError>a sentence</captionbeam>", file=sys.stderr)
        print("Traceback: something else", file=sys.stderr)
        logger.error("%sRequestError>a sentence", MARK)
    assert capsys.readouterr().err == "Traceback: something else\n"
