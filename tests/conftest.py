"""Settings of all tests."""

from __future__ import annotations

import os

# Tiny tensors gain nothing from more threads, and lose much where several tests run at once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# gcsfs reads this once, when it is loaded; a GCS server of a test never answers what it would ask otherwise.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

pytest_plugins = (
    "tests.builders.servers",
    "tests.builders.clusters",
    "tests.builders.slurm",
    "tests.builders.vertex",
    "tests.builders.kubernetes",
)
