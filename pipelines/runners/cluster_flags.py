"""Checks of Beam's flags before a job is sent to Spark or Flink."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
)

from captionbeam.pipelines.runners.clusters import FLINK, PORTABLE, SPARK, loops_back, on_cluster
from captionbeam.pipelines.runners.names import DATAFLOW, IN_PROCESS, runner_of
from captionbeam.schemas.errors import RequestError

TYPES = ("EXTERNAL", "DOCKER", "PROCESS", "LOOPBACK", "EMBEDDED")
ADDRESS = r"(?:[\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}"
_ADDRESS = re.compile(ADDRESS)
_SPARK_MASTER = re.compile(rf"local(\[.+\])?|spark://{ADDRESS}(,{ADDRESS})*|yarn|(k8s|mesos)://.+")
_FLINK_MASTER = re.compile(rf"\[(local|auto|collection)\]|(https?://)?{ADDRESS}/?")


def check_environment(beam_args: Sequence[str]) -> None:
    """Raises RequestError for an unknown kind of worker environment or an invalid worker address."""
    portable = PipelineOptions(list(beam_args)).view_as(PortableOptions)
    if runner_of(portable) in (*IN_PROCESS, *DATAFLOW):
        return
    kind, config = portable.environment_type, portable.environment_config
    if kind is not None and kind not in TYPES:
        raise RequestError(f"--environment_type is {kind!r}; expected one of {', '.join(TYPES)}")
    for flag in ("sdk_worker_parallelism", "environment_cache_millis"):
        _check_count(flag, str(getattr(portable, flag)))
    if kind == "EXTERNAL":
        address = _parsed(config, "url") or portable.lookup_environment_option("external_service_address")
        _check_address("--environment_config", address)
    if kind == "PROCESS" and not (
        _parsed(config, "command") or portable.lookup_environment_option("process_command")
    ):
        raise RequestError(
            f'--environment_config is {config!r}; expected \'{{"command": "PROGRAM"}}\' of --environment_type PROCESS'
        )


def check_cluster(beam_args: Sequence[str]) -> None:
    """Raises RequestError if the flags cannot reach the cluster or its workers."""
    if not on_cluster(beam_args):
        return
    portable = PipelineOptions(list(beam_args)).view_as(PortableOptions)
    runner, loops = runner_of(portable), loops_back(beam_args)
    _check_master(str(runner), portable)
    if portable.output_executable_path:
        _check_jar(portable, loops)
    if not loops and not (portable.environment_config or portable.environment_options):
        raise RequestError(
            f"{runner} is not told where its Python workers come from; expected --environment_type EXTERNAL "
            "--environment_config localhost:50000 with captionbeam workers on each machine, or an image of yours "
            "with --environment_type DOCKER, or LOOPBACK to have them in this process"
        )
    if runner in PORTABLE and portable.job_endpoint != "embed":
        _check_address("--job_endpoint", portable.job_endpoint)


def _check_jar(portable: PortableOptions, loops: bool) -> None:
    jar, master = portable.output_executable_path, portable.view_as(FlinkRunnerOptions).flink_master
    if loops:
        raise RequestError(
            f"{jar} would look for workers in this process, which is gone by then; expected --environment_type "
            "EXTERNAL with the address of worker pools, or DOCKER or PROCESS"
        )
    if runner_of(portable) in FLINK and master != "[auto]":
        raise RequestError(
            f"{jar} would insist on {master}, but flink run says where; expected to leave --flink_master out"
        )


def _check_master(runner: str, portable: PortableOptions) -> None:
    if runner in SPARK:
        spark = portable.view_as(SparkRunnerOptions)
        _check_server("--spark_job_server_jar", spark.spark_job_server_jar)
        if not _SPARK_MASTER.fullmatch(spark.spark_master_url):
            raise RequestError(
                f"--spark_master_url is {spark.spark_master_url!r}; expected spark://HOST:PORT, or local[4]"
            )
    if runner in FLINK:
        flink = portable.view_as(FlinkRunnerOptions)
        _check_server("--flink_job_server_jar", flink.flink_job_server_jar)
        if not _FLINK_MASTER.fullmatch(flink.flink_master):
            raise RequestError(f"--flink_master is {flink.flink_master!r}; expected HOST:PORT, or [local]")


def _check_server(flag: str, jar: str | None) -> None:
    if jar and "://" not in jar and not os.path.isfile(jar):
        raise RequestError(f"{flag} {jar!r} is not there; expected Beam's job server, or a URL of it")


def _check_address(flag: str, address: str | None) -> None:
    if not address or not _ADDRESS.fullmatch(address):
        raise RequestError(f"{flag} is {address!r}; expected HOST:PORT")


def _check_count(flag: str, value: str) -> None:
    if not value.isascii() or not value.isdigit():
        raise RequestError(f"--{flag} is {value!r}; expected a whole number of 0 or more")


def _parsed(config: str | None, key: str) -> Any:
    """Returns a key of a JSON configuration. Other text is returned unchanged as a URL, and as None for other keys."""
    if config is None or not config.strip().startswith("{"):
        return config if key == "url" else None
    try:
        return json.loads(config).get(key)
    except ValueError:
        return None
