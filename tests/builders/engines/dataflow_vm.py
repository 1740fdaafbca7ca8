"""A worker's machine: ``python dataflow_vm.py FOLDER`` runs the job in FOLDER/job.json to its end.

Like the service it has nothing of the launcher's but the job and what it staged. Beam's portable runner starts the
SDK container by ``docker``, which here is ``docker.py``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import fsspec
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.portability.fn_api_runner import FnApiRunner


def staged_pipeline(job: dict[str, Any], folder: Path) -> api.Pipeline:
    """The pipeline from the bucket, its packages fetched to this machine."""
    options = job["environment"]["sdkPipelineOptions"]["options"]
    pipeline = api.Pipeline.FromString(fsspec.open(options["pipelineUrl"]).open().read())
    for environment in pipeline.components.environments.values():
        for number, package in enumerate(environment.dependencies):
            assert package.type_urn == common_urns.artifact_types.URL.urn, package
            sent = api.ArtifactUrlPayload.FromString(package.type_payload)
            local = folder / f"package-{number}"
            local.write_bytes(fsspec.open(sent.url).open().read())
            package.type_urn = common_urns.artifact_types.FILE.urn
            fetched = api.ArtifactFilePayload(path=str(local), sha256=sent.sha256)
            package.type_payload = fetched.SerializeToString()
    return pipeline


def main(folder: Path) -> None:
    """Run the job; what a worker raised goes to FOLDER/error."""
    job = json.loads((folder / "job.json").read_text())
    docker = folder / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("docker.py")} {folder} "$@"\n'
    )
    docker.chmod(0o755)
    os.environ["PATH"] = f"{docker.parent}{os.pathsep}{os.environ['PATH']}"
    threads = job["environment"]["workerPools"][0].get("numThreadsPerWorker")
    sent = job["environment"]["sdkPipelineOptions"]["options"]
    keep = {"number_of_worker_harness_threads": threads, "experiments": sent["experiments"]}
    options = PipelineOptions.from_dictionary({**keep, "pickle_library": sent["pickle_library"]})
    try:
        FnApiRunner().run_via_runner_api(staged_pipeline(job, folder), options).wait_until_finish()
    except Exception as err:
        (folder / "error").write_text(str(err))
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
