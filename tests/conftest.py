"""Settings of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from fsspec.config import conf
from hypothesis import settings

from captionbeam.schemas.storage import options as storage_options

# How long an example takes is the machine's affair, and no promise of ours.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Tiny tensors gain nothing from more threads, and lose much where several tests run at once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# gcsfs reads this once, when it is loaded; a GCS server of a test never answers what it would ask otherwise.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

# A shell that starts the tests in the background has them ignore Ctrl-C, and they their children, which are sent it.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = (
    "tests.builders.web.servers",
    "tests.builders.engines.clusters",
    "tests.builders.clouds.slurm",
    "tests.builders.clouds.vertex",
    "tests.builders.clouds.kubernetes",
)


# Fixtures that start a server or a cluster: a test that asks for one is a trial of an engine.
ENGINES = {"gcs_server", "s3_server", "bucket", "running_cluster", "slurm_cluster", "vertex", "kubernetes"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark with ``engines`` what uses one of ``ENGINES``."""
    for item in items:
        if ENGINES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.engines)


@pytest.fixture(autouse=True)
def _no_storage_options_of_the_last_test() -> Iterator[None]:
    """A job opens storage with its own options from then on, and a test is not the end of the process."""
    before = dict(conf)
    yield
    storage_options.use({})
    conf.clear()
    conf.update(before)
