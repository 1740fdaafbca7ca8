"""What is said about a job on Spark or Flink; the clusters themselves are in tests/jobs."""

from __future__ import annotations

import apache_beam as beam
import pytest

from captionbeam.pipelines.runners import clusters
from captionbeam.pipelines.runners.runner import run_pipeline
from captionbeam.schemas.errors import SystemicError

SPARK = ["--runner", "SparkRunner", "--spark_master_url", "spark://master:7077"]
FLINK = ["--runner", "FlinkRunner", "--flink_master", "master:8081"]
POOL = ["--environment_type", "EXTERNAL", "--environment_config", "localhost:50000"]


def test_what_the_launcher_itself_does_wrong_is_not_blamed_on_the_cluster():
    def build(_):
        raise ZeroDivisionError("in the launcher")

    with pytest.raises(ZeroDivisionError, match="in the launcher"):
        run_pipeline([*SPARK, *POOL], build)


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
    said = str(clusters.failure("FlinkRunner", error))
    assert said == (
        "FlinkRunner failed: Pipeline BeamApp-1 failed in state FAILED: java.net.ConnectException: refused; the same "
        "command resumes"
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--runner", "PrismRunner", "--prism_location", "/nope"], 'PrismRunner failed: Unable to parse binary URL'),
        ([*SPARK, *POOL, "--spark_job_server_jar", "/nope"], 'SparkRunner failed: Unable to parse jar URL "/nope"'),
    ],
)  # fmt: skip
def test_a_runner_that_does_not_start_is_one_sentence(flags, sentence):
    with pytest.raises(SystemicError) as failed:
        run_pipeline(flags, lambda pipeline: pipeline | beam.Create([1]))
    assert str(failed.value).startswith(sentence)
    assert "\n" not in str(failed.value)
