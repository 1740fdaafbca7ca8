"""Which Beam runner a pipeline runs on, and what its errors say."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, _BeamArgumentParser
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import create_runner

from pipelines.boundary import MARK, unmarked
from schemas.errors import RequestError

# Beam logs a traceback of what a worker raised; an error of ours comes to the launcher, which says it once
logging.getLogger("apache_beam.runners.common").addFilter(lambda record: MARK not in record.getMessage())

IN_PROCESS = (None, "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner")


def make_pipeline(beam_args: Sequence[str] = ()) -> beam.Pipeline:
    """A pipeline on the runner that ``beam_args`` name; by default the in-process one, which downloads nothing."""
    options = PipelineOptions(list(beam_args))
    runner = options.view_as(StandardOptions).runner
    if runner in IN_PROCESS:
        return beam.Pipeline(runner=FnApiRunner(), options=options)
    return beam.Pipeline(options=options)


def runs_in_process(beam_args: Sequence[str]) -> bool:
    """Whether ``make_pipeline`` would take the in-process runner."""
    return PipelineOptions(list(beam_args)).view_as(StandardOptions).runner in IN_PROCESS


def run_pipeline(beam_args: Sequence[str], build: Callable[[beam.Pipeline], object]) -> None:
    """Build a pipeline, run it and wait. Raises the first error of ours that a worker raised, as it was."""
    try:
        pipeline = make_pipeline(beam_args)
        build(pipeline)
        pipeline.run().wait_until_finish()
    except Exception as err:  # runners wrap workers' errors each in a type of its own
        ours = unmarked(err)
        if ours is None:
            raise
        raise ours from err


def check_beam_args(beam_args: Sequence[str]) -> None:
    """Refuse a flag that neither this job nor Beam knows, and a runner that there is not. Raises RequestError."""
    known = _beam_flags()
    for flag in (arg.split("=", 1)[0] for arg in beam_args if arg.startswith("--")):
        if flag not in known:
            near = difflib.get_close_matches(flag, sorted(known), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise RequestError(
                f"unknown option {flag!r}; expected one of this job's or of Beam's PipelineOptions{hint}"
            )
    _check_runner(beam_args)


def _check_runner(beam_args: Sequence[str]) -> None:
    name = PipelineOptions(list(beam_args)).view_as(StandardOptions).runner
    if name in IN_PROCESS:
        return
    try:
        create_runner(name)
    except (ValueError, ImportError) as err:
        raise RequestError(f"no runner {name!r}: {' '.join(str(err).split())}") from err


def _beam_flags() -> set[str]:
    parser = _BeamArgumentParser(add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return set(parser._option_string_actions)
