"""What is said and refused before a job goes to Spark or Flink; the clusters themselves are in tests/jobs."""

from __future__ import annotations

import pytest

from captionbeam.pipelines.runners import clusters
from captionbeam.pipelines.runners.flags import check_beam_args
from captionbeam.pipelines.runners.runner import run_pipeline
from captionbeam.schemas.errors import RequestError

SPARK = ["--runner", "SparkRunner", "--spark_master_url", "spark://master:7077"]
FLINK = ["--runner", "FlinkRunner", "--flink_master", "master:8081"]
POOL = ["--environment_type", "EXTERNAL", "--environment_config", "localhost:50000"]
JAR = ["--output_executable_path", "job.jar"]


@pytest.mark.parametrize(
    "flags",
    [
        [*SPARK, *POOL],
        [*FLINK, *POOL, "--parallelism", "4"],
        [*SPARK, *POOL, *JAR],
        [*SPARK, "--environment_type", "LOOPBACK"],
        ["--runner", "SparkRunner", "--spark_master_url", "local[2]"],
        ["--runner", "SparkRunner"],
        ["--runner", "FlinkRunner", "--flink_master", "[local]"],
        ["--runner", "SparkRunner", "--spark_master_url", "spark://one:7077,two:7077", *POOL],
        ["--runner", "FlinkRunner", "--flink_master", "https://master:8081", *POOL],
        [*SPARK, "--environment_type", "EXTERNAL", "--environment_config", '{"url": "localhost:50000"}'],
        [
            *SPARK,
            "--environment_type",
            "EXTERNAL",
            "--environment_options",
            "external_service_address=[::1]:50000",
        ],
        [*SPARK, "--environment_type", "PROCESS", "--environment_config", '{"command": "boot"}'],
        [*SPARK, "--environment_type", "DOCKER", "--environment_config", "example.com/captionbeam"],
        ["--runner", "PortableRunner", "--job_endpoint", "localhost:8099", *POOL],
    ],
)
def test_what_has_workers_is_taken(flags):
    check_beam_args(flags)


@pytest.mark.parametrize("engine", [SPARK, FLINK, ["--runner", "PortableRunner"]])
def test_a_cluster_without_workers_is_refused(engine):
    """Beam's default is an image of its own, which has no captionbeam."""
    with pytest.raises(RequestError, match="is not told where its Python workers come from; expected"):
        check_beam_args(engine)


@pytest.mark.parametrize(
    ("flags", "idle"),
    [
        (["--spark_master_url", "spark://master:7077"], "--spark_master_url"),
        ([*SPARK, *POOL, "--flink_master", "master:8081"], "--flink_master"),
        ([*FLINK, *POOL, "--spark_job_server_jar", "jar"], "--spark_job_server_jar"),
        (JAR, "--output_executable_path"),
        (["--job_server_jvm_property=-Xmx1g"], "--job_server_jvm_property"),
    ],
)
def test_flags_of_another_runner_are_refused(flags, idle):
    with pytest.raises(RequestError, match=f"{idle} would do nothing with"):
        check_beam_args(flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            [*SPARK, *POOL, "--spark_job_server_jar", "/nope.jar"],
            "--spark_job_server_jar '/nope.jar' is not there; expected Beam's job server, or a URL of it",
        ),
        (
            [*FLINK, *POOL, "--flink_job_server_jar", "/nope.jar"],
            "--flink_job_server_jar '/nope.jar' is not there; expected Beam's job server, or a URL of it",
        ),
        (
            [*SPARK, "--environment_type", "FOO"],
            "--environment_type is 'FOO'; expected one of EXTERNAL, DOCKER, PROCESS, LOOPBACK, EMBEDDED",
        ),
        (
            ["--runner", "SparkRunner", "--spark_master_url", "nonsense", *POOL],
            "--spark_master_url is 'nonsense'; expected spark://HOST:PORT, or local[4]",
        ),
        (
            ["--runner", "FlinkRunner", "--flink_master", "nonsense", *POOL],
            "--flink_master is 'nonsense'; expected HOST:PORT, or [local]",
        ),
        ([*SPARK, *POOL[:3], "nohostport"], "--environment_config is 'nohostport'; expected HOST:PORT"),
        ([*SPARK, *POOL[:2]], "--environment_config is None; expected HOST:PORT"),
        (
            [*SPARK, "--environment_type", "PROCESS", "--environment_config", "boot"],
            "--environment_config is 'boot'; expected '{\"command\": \"PROGRAM\"}' of --environment_type PROCESS",
        ),
        (
            [*SPARK, *POOL, "--sdk_worker_parallelism", "abc"],
            "--sdk_worker_parallelism is 'abc'; expected a whole number of 0 or more",
        ),
        (["--runner", "PortableRunner", *POOL], "--job_endpoint is None; expected HOST:PORT"),
    ],
)
def test_what_no_job_could_start_with_is_refused(flags, said):
    with pytest.raises(RequestError) as refusal:
        check_beam_args(flags)
    assert str(refusal.value) == said


def test_what_the_launcher_itself_does_wrong_is_not_blamed_on_the_cluster():
    def build(_):
        raise ZeroDivisionError("in the launcher")

    with pytest.raises(ZeroDivisionError, match="in the launcher"):
        run_pipeline([*SPARK, *POOL], build)


def test_a_jar_whose_workers_would_be_gone_is_refused():
    with pytest.raises(RequestError, match=r"job\.jar would look for workers in this process"):
        check_beam_args([*SPARK, *JAR, "--environment_type", "LOOPBACK"])
    with pytest.raises(RequestError, match="flink run says where; expected to leave --flink_master out"):
        check_beam_args([*FLINK, *POOL, *JAR])
    check_beam_args(["--runner", "FlinkRunner", *POOL, *JAR])


def test_a_store_that_other_machines_may_not_see_is_noted(tmp_path):
    expected = (
        f"note: {tmp_path} is a path: every machine of the cluster needs it as the same shared folder; "
    )
    assert list(clusters.notes(str(tmp_path), [*SPARK, *POOL])) == [expected + "else expected gs:// or s3://"]
    for flags in ([], [*SPARK, "--environment_type", "LOOPBACK"], ["--runner", "FlinkRunner"]):
        assert list(clusters.notes(str(tmp_path), flags)) == []
    assert list(clusters.notes("memory://store", [*SPARK, *POOL])) == []


def test_how_a_jar_is_submitted():
    said = "wrote job.jar: nothing has run; it does when submitted, and publishes at its end: "
    assert (
        clusters.submit_line("job.jar", SPARK) == f"{said}spark-submit --master spark://master:7077 job.jar"
    )
    assert clusters.submit_line("job.jar", FLINK) == f"{said}flink run job.jar"
    local = clusters.submit_line("job.jar", ["--runner", "SparkRunner"])
    assert local == f"{said}spark-submit --master MASTER job.jar"


def test_a_clusters_own_trouble_is_one_sentence():
    error = RuntimeError(
        "Pipeline BeamApp-1 failed in state FAILED: java.net.ConnectException: refused\n\tat x.Y"
    )
    said = str(clusters.failure(error))
    assert said.startswith("the cluster gave up: java.net.ConnectException: refused; expected it to be there")
    assert "\n" not in said
