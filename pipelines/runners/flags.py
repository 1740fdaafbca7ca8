"""Checks Beam's flags before a job starts.

Beam's own parser and validator decide what is valid. Refused beyond that are flags that would lose the result of a run
or run something else than the user expects.
"""

from __future__ import annotations

from collections.abc import Sequence

from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    _BeamArgumentParser,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import PipelineRunner, create_runner

from captionbeam.pipelines.runners.clusters import CLUSTERS, FLINK, loops_back
from captionbeam.pipelines.runners.names import DATAFLOW, IN_PROCESS, runner_of
from captionbeam.schemas.errors import RequestError


class _Parser(_BeamArgumentParser):
    """Parses all of Beam's flags at once. Raises RequestError for invalid values."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False, conflict_handler="resolve")
        for options in PipelineOptions.__subclasses__():
            options._add_argparse_args(self)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(f"{message}; expected it as Beam's PipelineOptions have it")


def beam_flags() -> list[str]:
    """Returns all flags of Beam's PipelineOptions, such as ``--runner``."""
    return list(_Parser()._option_string_actions)


def takes_value(flag: str) -> bool:
    """Whether Beam's ``flag`` has a value, as ``--runner`` does."""
    action = _Parser()._option_string_actions.get(flag)
    return action is None or action.nargs != 0


def check_beam_args(beam_args: Sequence[str]) -> None:
    """Raises RequestError for flags that Beam does not know or accept, or whose result would be lost or surprising."""
    given = {arg.split("=", 1)[0] for arg in beam_args if arg.startswith("--")}
    for flag in sorted(given - {*beam_flags()}):
        raise RequestError(f"unknown option {flag!r}; expected one of Beam's PipelineOptions")
    _require("--dry_run" not in given, "--dry_run is Beam's, and would run the job; expected --dry-run")
    _require(
        "--streaming" not in given,
        "--streaming is for jobs that never end, and this one does; expected to leave it out",
    )
    _, others = _Parser().parse_known_args(list(beam_args))
    _require(
        not others, f"{' '.join(others)!r} is no option of Beam; expected flags such as --runner=DirectRunner"
    )
    # dry_run keeps Beam's validator from asking Google Cloud about the bucket
    options = PipelineOptions([*beam_args, "--dry_run=True"])
    direct = options.view_as(DirectOptions)
    workers = direct.direct_num_workers
    _require(workers >= 0, f"--direct_num_workers is {workers}; expected 0 (one for each core) or more")
    _require(
        direct.direct_running_mode != "multi_threading",
        "--direct_running_mode multi_threading garbles what passes between steps, from some ten thousand images on; "
        "expected multi_processing, or no --direct_running_mode",
    )
    validator = PipelineOptionsValidator(options, _make_runner(options))
    refused = _check_staging(validator) if runner_of(options) in DATAFLOW else []
    if runner_of(options) in CLUSTERS:
        _check_workers(options.view_as(PortableOptions), loops_back(beam_args))
    if refused := refused or validator.validate():
        raise RequestError(f"Beam refuses the options: {' '.join(refused)}")
    try:
        pickler.set_library(options.view_as(SetupOptions).pickle_library)
    except ImportError as err:
        raise RequestError(f"Beam refuses the options: {err}") from err


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise RequestError(sentence)


def _make_runner(options: PipelineOptions) -> PipelineRunner | None:
    """Returns the runner; None for the in-process one. Raises RequestError for an unknown name."""
    if runner_of(options) in IN_PROCESS:
        return None
    name = options.view_as(StandardOptions).runner
    try:
        return create_runner(name)
    except (ValueError, ImportError) as err:
        raise RequestError(f"no runner {name!r}: {' '.join(str(err).split())}") from err


def _check_staging(validator: PipelineOptionsValidator) -> list[str]:
    """Returns what Beam finds wrong with the staging locations. Without any it would create a bucket by itself."""
    cloud = validator.options.view_as(GoogleCloudOptions)
    named = [name for name in ("temp_location", "staging_location") if getattr(cloud, name)]
    _require(
        bool(named), "DataflowRunner needs a place for its files; expected --temp_location gs://BUCKET/FOLDER"
    )
    return [error for name in named for error in validator.validate_gcs_path(cloud, name)]


def _check_workers(portable: PortableOptions, loops: bool) -> None:
    """Raises RequestError if a cluster's job could not find its workers, or its jar the cluster."""
    jar, master = portable.output_executable_path, portable.view_as(FlinkRunnerOptions).flink_master
    if jar:
        _require(
            not loops,
            f"{jar} would look for workers in this process, which is gone by then; expected --environment_type "
            "EXTERNAL with the address of worker pools, or DOCKER or PROCESS",
        )
        _require(
            runner_of(portable) not in FLINK or master == "[auto]",
            f"{jar} would insist on {master}, but flink run says where; expected to leave --flink_master out",
        )
    _require(
        bool(loops or portable.environment_config or portable.environment_options),
        f"{runner_of(portable)} is not told where its Python workers come from; expected --environment_type EXTERNAL "
        "--environment_config localhost:50000 with captionbeam workers on each machine, or an image of yours with "
        "--environment_type DOCKER, or LOOPBACK to have them in this process",
    )
