"""Beam's job servers for Spark 3.5 and Flink 1.19, put together by Maven from their parts, once.

Beam fetches a ready jar by itself. Where it cannot be had, nor its newest parts, an older one is put together here.
The Python SDK talks to an older job server without trouble. ``docs/spark.md`` has the same as one command.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.builders.running.cached import cached
from tests.builders.web.fetched import fetch, need

BEAM_VERSION = "2.62.0"
POM = Path(__file__).with_name("jobserver.pom.xml")


def job_server(engine: str) -> Path:
    """The job server's jar for ``spark`` or ``flink``: about a minute of Maven, the first time."""
    need("java", f"{engine} job server")
    maven = need("mvn", f"{engine} job server")

    def make(folder: Path) -> None:
        build = [maven, "-q", "-B", "-f", str(POM), "-P", engine]
        fetch(
            [*build, f"-Dbeam.version={BEAM_VERSION}", f"-Dbuild.folder={folder}/build", "package"],
            f"{engine} job server",
        )
        shutil.move(folder / "build" / f"{engine}-job-server-1.jar", folder / "job-server.jar")
        shutil.rmtree(folder / "build")

    return cached(f"{engine}-job-server-{BEAM_VERSION}", make) / "job-server.jar"
