"""Where a device is looked for, and what precision is settled by whom."""

from __future__ import annotations

import pytest
import torch

from captionbeam.jobs.run_on.target import resolve_target
from captionbeam.pipelines.workers.processors import EncoderJob
from captionbeam.schemas.errors import RequestError, SystemicError
from tests.builders.clouds.launches import CLOUD, encode

ABSENT = f"cuda:{torch.cuda.device_count()}"
POOL = ["--environment_type", "EXTERNAL", "--environment_config", "localhost:50000"]
REMOTE = [
    CLOUD,
    ["--runner", "SparkRunner", "--spark_master_url", "spark://master:7077", *POOL],
    ["--runner", "FlinkRunner", "--flink_master", "master:8081", *POOL],
    ["--runner", "PrismRunner", *POOL],
]
HERE = [[], ["--runner", "PrismRunner"], ["--runner", "SparkRunner"]]


def settled_job(beam_args, device, precision):
    return resolve_target(encode(beam_args, device=device, precision=precision))


@pytest.mark.parametrize("beam_args", HERE)
def test_a_device_is_looked_for_here_where_the_workers_are_here(beam_args):
    with pytest.raises(RequestError, match=f"no device '{ABSENT}': this machine has"):
        settled_job(beam_args, ABSENT, "fp32")
    target, chosen = settled_job(beam_args, "cpu", "auto")
    assert (target.notes, chosen.precision) == ((), "auto")


@pytest.mark.parametrize("beam_args", REMOTE)
def test_a_device_of_other_machines_is_not_looked_for_here(beam_args):
    target, chosen = settled_job(beam_args, ABSENT, "bf16")
    assert (target.notes, chosen.device, chosen.precision) == ((), ABSENT, "bf16")
    with pytest.raises(RequestError, match="--device is 'abacus'; expected auto, cpu, cuda, cuda:N or"):
        settled_job(beam_args, "abacus", "bf16")
    with pytest.raises(
        RequestError, match="--precision auto cannot be resolved here .*; expected --precision fp32 or bf16"
    ):
        settled_job(beam_args, "cuda", "auto")


def test_a_worker_without_the_device_stops_the_job():
    job = EncoderJob(spec={}, weights="models/0.safetensors", device=ABSENT)
    with pytest.raises(
        SystemicError, match=f"a worker cannot compute: no device '{ABSENT}': .*; expected workers with"
    ):
        job.load(threads=1)


@pytest.mark.parametrize("beam_args", REMOTE)
def test_a_precision_that_this_machine_settles_for_others_is_said(beam_args):
    target, chosen = settled_job(beam_args, "auto", "auto")
    assert chosen.precision in ("fp32", "bf16")
    assert target.notes == (f"--precision auto is {chosen.precision} on this machine, and so on all workers",)
