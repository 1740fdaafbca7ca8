"""Beam's flags: Beam's own parser and validator judge them, and what would lose or change a result is refused."""

from __future__ import annotations

import pytest

from captionbeam.pipelines.runners.flags import beam_flags, check_beam_args
from captionbeam.pipelines.runners.runner import is_handed_over
from captionbeam.schemas.errors import RequestError

PROJECT = ["--runner", "DataflowRunner", "--project", "a-project", "--region", "us-central1"]
DATAFLOW = [*PROJECT, "--temp_location", "gs://bucket/tmp"]
SPARK = ["--runner", "SparkRunner", "--spark_master_url", "spark://master:7077"]
FLINK = ["--runner", "FlinkRunner", "--flink_master", "master:8081"]
POOL = ["--environment_type", "EXTERNAL", "--environment_config", "localhost:50000"]
JAR = ["--output_executable_path", "job.jar"]


def test_beams_flags_are_known():
    assert {"--runner", "--temp_location", "--flink_master"} <= {*beam_flags()}


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--project", "x"],  # without effect there, which is no error
        ["--direct_num_workers", "4", "--direct_running_mode", "multi_processing"],
        [*DATAFLOW, "--job_name", "x", "--setup_file", "setup.py", "--machine_type", "n2"],
        [*SPARK, *POOL, *JAR],
        [*SPARK, "--environment_type", "LOOPBACK"],
        ["--runner", "FlinkRunner", *POOL, *JAR],
        [*FLINK, *POOL, "--parallelism", "2", "--sdk_worker_parallelism", "2"],
        [*SPARK, *POOL[:2], "--environment_options", "external_service_address=[::1]:50000"],
        ["--runner", "PortableRunner", "--job_endpoint", "localhost:8099", *POOL],
    ],
)
def test_what_can_run_is_accepted(flags):
    check_beam_args(flags)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--shard-sise", "3"], "unknown option '--shard-sise'; expected one of"),
        (["runner=FlinkRunner"], "'runner=FlinkRunner' is no option of Beam; expected flags such as"),
        (["--runner", "nope"], "no runner 'nope': Unexpected pipeline runner: nope."),
        ([*DATAFLOW, "--dry_run=True"], "--dry_run is Beam's, and would run the job; expected --dry-run"),
        ([*FLINK, "--streaming"], "--streaming is for jobs that never end, and this one does; expected"),
        (
            ["--direct_num_workers", "x"],
            "argument --direct_num_workers: invalid int value: 'x'; expected it as",
        ),
        (
            ["--direct_num_workers", "-1"],
            "--direct_num_workers is -1; expected 0 (one for each core) or more",
        ),
        (["--direct_running_mode", "multi_threading"], "--direct_running_mode multi_threading garbles what"),
        (PROJECT, "DataflowRunner needs a place for its files; expected --temp_location gs://BUCKET/FOLDER"),
        ([*DATAFLOW, "--job_name", "X"], "Beam refuses the options: Invalid job_name (X); the name must"),
        (["--pickle_library", "dill"], "Beam refuses the options: Option pickle_library=dill requires dill"),
        (SPARK, "SparkRunner is not told where its Python workers come from; expected --environment_type"),
        (["--runner", "PortableRunner"], "PortableRunner is not told where its Python workers come from"),
        ([*SPARK, *JAR, "--environment_type", "LOOPBACK"], "job.jar would look for workers in this process"),
        ([*FLINK, *POOL, *JAR], "job.jar would insist on master:8081, but flink run says where; expected to"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(flags, sentence):
    with pytest.raises(RequestError) as refusal:
        check_beam_args(flags)
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


def test_a_template_is_handed_over():
    assert is_handed_over([*DATAFLOW, "--template_location", "gs://bucket/template"])
    assert not is_handed_over(["--template_location", "/tmp/template"])
