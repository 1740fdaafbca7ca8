"""Checks Beam's flags on the command line before a job starts: unknown, invalid, or without effect."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SparkRunnerOptions,
    StandardOptions,
    TestDataflowOptions,
    TestOptions,
    WorkerOptions,
    _BeamArgumentParser,
)
from apache_beam.runners.runner import create_runner

from captionbeam.pipelines.runners import clusters
from captionbeam.pipelines.runners.cluster_flags import check_cluster, check_environment
from captionbeam.pipelines.runners.names import DATAFLOW, IN_PROCESS, ONE_WORKER, runner_of
from captionbeam.schemas.errors import RequestError

APART = (*clusters.CLUSTERS, *ONE_WORKER, *DATAFLOW)  # runners whose workers are apart from the launcher
OF_EVERY_WORKER = (
    "--default_sdk_harness_log_level", "--sdk_harness_log_level_overrides", "--max_cache_memory_usage_mb",
    "--element_processing_timeout_minutes",
)  # fmt: skip
OF_ENDLESS_JOBS = (
    "--streaming", "--update", "--transform_name_mapping", "--create_from_snapshot", "--enable_streaming_engine",
)  # fmt: skip
SENT = ("--setup_file", "--extra_package", "--extra_packages", "--requirements_file", "--file_to_stage",
        "--files_to_stage", "--sdk_location")  # fmt: skip
PACKAGES = (".whl", ".tar.gz", ".tar", ".zip")  # the types that Beam's stager accepts


class _Parser(_BeamArgumentParser):
    """Parses all of Beam's flags at once. Raises RequestError for invalid ones."""

    def __init__(self, *known: type[PipelineOptions]) -> None:
        super().__init__(add_help=False, allow_abbrev=False, conflict_handler="resolve")
        for options in known or PipelineOptions.__subclasses__():
            options._add_argparse_args(self)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(f"{message}; expected it as Beam's PipelineOptions have it")

    @property
    def flags(self) -> list[str]:
        return list(self._option_string_actions)


def takes_value(flag: str) -> bool:
    """Whether Beam's ``flag`` has a value, as ``--runner`` does."""
    action = _Parser()._option_string_actions.get(flag)
    return action is None or action.nargs != 0


def check_beam_args(beam_args: Sequence[str]) -> None:
    """Raises RequestError for flags that neither this job nor Beam knows, that are invalid, or that have no effect."""
    given = [arg.split("=", 1)[0] for arg in beam_args if arg.startswith("--")]
    _check_known(given)
    _check_batch(given)
    options = _Parser().parse_known_args(list(beam_args))[0]
    _check_runner(beam_args)
    _check_idle(PipelineOptions(list(beam_args)), given)
    _check_files(options)
    _check_pickling(options)
    check_environment(beam_args)
    check_cluster(beam_args)


def _check_known(given: Iterable[str]) -> None:
    known = _Parser().flags
    for flag in given:
        if flag not in known:
            near = difflib.get_close_matches(flag, sorted(known), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise RequestError(
                f"unknown option {flag!r}; expected one of this job's or of Beam's PipelineOptions{hint}"
            )


def _check_batch(given: Iterable[str]) -> None:
    for flag in given:
        if flag == "--dry_run":
            raise RequestError("--dry_run is Beam's, and would run the job; expected --dry-run")
        if flag in OF_ENDLESS_JOBS:
            raise RequestError(
                f"{flag} is for jobs that never end, and this one does; expected to leave it out"
            )


def _check_idle(options: PipelineOptions, given: Sequence[str]) -> None:
    """Raises RequestError for an option that has no effect with this runner."""
    runner, direct = runner_of(options), options.view_as(DirectOptions)
    named = f"--runner {runner}" if runner else "the in-process runner"
    for owners, flags in _owners():
        idle = sorted(set(given) & set(flags)) if runner not in owners else []
        if idle:
            raise RequestError(f"{idle[0]} would do nothing with {named}; expected to leave it out")
    _check_workers(direct, "--direct_num_workers" in given)


def _owners() -> list[tuple[Sequence[str | None], Iterable[str]]]:
    """Returns which runners use which flags. All other flags apply to all runners."""
    own = {"--job_name", *OF_EVERY_WORKER}
    portable = {"--output_executable_path", "--environment_cache_millis", "--sdk_worker_parallelism"}
    cloud = {*_flags(GoogleCloudOptions, WorkerOptions), "--number_of_worker_harness_threads",
             "--resource_hint", "--resource_hints"}  # fmt: skip
    return [
        (IN_PROCESS, [flag for flag in _flags(DirectOptions) if flag.startswith("--direct")]),
        (ONE_WORKER, _flags(PrismRunnerOptions)),
        (clusters.SPARK, _flags(SparkRunnerOptions)),
        (clusters.FLINK, _flags(FlinkRunnerOptions)),
        (clusters.CLUSTERS, [*portable, *_flags(JobServerOptions)]),
        ((*clusters.CLUSTERS, *ONE_WORKER), _flags(PortableOptions)),
        (DATAFLOW, cloud - own),
        (APART, ["--job_name", *SENT]),
        ((), [*_flags(TestOptions, TestDataflowOptions), "--no_wait_until_finish"]),
    ]


def _check_workers(direct: DirectOptions, given: bool) -> None:
    if direct.direct_num_workers < 0:
        raise RequestError(f"--direct_num_workers is {direct.direct_num_workers}; expected 0 or more")
    if direct.direct_running_mode == "multi_threading":
        raise RequestError(
            "--direct_running_mode multi_threading garbles what passes between steps, from some ten thousand images "
            "on; expected multi_processing, or no --direct_running_mode"
        )
    if given and direct.direct_num_workers != 1 and direct.direct_running_mode == "in_memory":
        raise RequestError(
            f"--direct_num_workers {direct.direct_num_workers} would do nothing by itself; expected "
            "--direct_running_mode multi_processing with it"
        )


def _check_files(options: argparse.Namespace) -> None:
    prism = options.prism_location
    if prism and "://" not in prism and not os.path.isfile(prism):
        raise RequestError(f"there is no Prism at {prism!r}; expected its binary, or a URL of it")
    packages = options.extra_packages or []
    named = [("--setup_file", options.setup_file), ("--requirements_file", options.requirements_file),
             *(("--extra_package", path) for path in packages)]  # fmt: skip
    for flag, path in named:
        if path is not None and "://" not in path and not os.path.isfile(path):
            raise RequestError(f"{flag} {path!r} is not there; expected a file of this machine")
    if options.setup_file and os.path.basename(options.setup_file) not in ("setup.py", "pyproject.toml"):
        raise RequestError(
            f"--setup_file is {options.setup_file!r}; expected a file named setup.py or pyproject.toml"
        )
    for path in packages:
        if not path.endswith(PACKAGES):
            raise RequestError(f"--extra_package is {path!r}; expected one of {', '.join(PACKAGES)}")


def _check_pickling(options: argparse.Namespace) -> None:
    if options.pickle_library.startswith("dill") and find_spec("dill") is None:
        raise RequestError(
            f"--pickle_library {options.pickle_library} needs dill, which is not installed; expected cloudpickle"
        )


def _check_runner(beam_args: Sequence[str]) -> None:
    options = PipelineOptions(list(beam_args))
    if runner_of(options) in IN_PROCESS:
        return
    name = options.view_as(StandardOptions).runner
    try:
        create_runner(name)
    except (ValueError, ImportError) as err:
        raise RequestError(f"no runner {name!r}: {' '.join(str(err).split())}") from err


def _flags(*options: type[PipelineOptions]) -> list[str]:
    return _Parser(*options).flags
