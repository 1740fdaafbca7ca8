"""The platform that a run is on, detected from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

JOB = "CAPTIONBEAM_JOB"  # `PLATFORM/JOB`, set at submission for platforms that do not give jobs their name


def detect_platform(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns ``platform`` (Slurm, Vertex AI, Kubernetes or local) and ``job``, which local does not have.

    >>> detect_platform({"SLURM_JOB_ID": "12", "SLURM_CLUSTER_NAME": "birch"})
    {'platform': 'Slurm', 'job': '12 on birch'}
    """
    if JOB in environment:
        platform, _, job = environment[JOB].partition("/")
        return {"platform": platform, "job": job}
    if "CLOUD_ML_JOB_ID" in environment:
        job, project = environment["CLOUD_ML_JOB_ID"], environment.get("CLOUD_ML_PROJECT_ID")
        return {"platform": "Vertex AI", "job": f"{job} of project {project}" if project else job}
    if "SLURM_JOB_ID" in environment:
        job, cluster = environment["SLURM_JOB_ID"], environment.get("SLURM_CLUSTER_NAME")
        return {"platform": "Slurm", "job": f"{job} on {cluster}" if cluster else job}
    return {"platform": "local"}
