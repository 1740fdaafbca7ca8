"""``cluster``: a Spark, then a Flink cluster, each for all tests of the session that want it, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders.engines.flink import FlinkCluster, flink_cluster
from tests.builders.engines.spark import SparkCluster, spark_cluster

Cluster = SparkCluster | FlinkCluster
ENGINES = {"spark": spark_cluster, "flink": flink_cluster}


@pytest.fixture(scope="session", params=sorted(ENGINES, reverse=True))
def running_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The cluster, started for the first test that wants it."""
    with ENGINES[request.param](tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def cluster(running_cluster: Cluster) -> Cluster:
    """The cluster, whole again if the test before killed a part of it."""
    running_cluster.mend()
    return running_cluster
