"""Two worker processes share a limit of tokens per minute, against a server that counts."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from captionbeam.schemas import Store
from tests.builders.running.commands import ROOT, environment
from tests.builders.web.endpoint import Reply, scripted_endpoint

pytestmark = pytest.mark.engines

IMAGES, LIMIT = 75, 60_000  # tokens per minute
PROCESSES = ("--direct_running_mode", "multi_processing", "--direct_num_workers", 2)


def tokens_of(request):
    """500 to 1,500 tokens, by the picture."""
    return 500 + int(request.digest, 16) % 1001


def test_two_worker_processes_keep_to_the_tokens_per_minute(tmp_path):
    photos, store = tmp_path / "photos", tmp_path / "store"
    photos.mkdir()
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(photos / f"{number:02d}.jpg")
    with scripted_endpoint(lambda request: Reply("a dog", tokens=(tokens_of(request) - 10, 10))) as server:
        words = ["caption", photos, "--output", store, "--captioner", f"openai:{server.url}", "--model", "scripted",
                 "--prompt", "Describe it.", "--shard-size", 5, "--tokens-per-minute", LIMIT, *PROCESSES]  # fmt: skip
        job = subprocess.Popen(
            [sys.executable, "-m", "captionbeam", *map(str, words)], cwd=ROOT, env=environment()
        )
        seen = set()  # names of the processes' records
        while job.poll() is None:
            seen |= {path.name for path in store.glob("plans/*/pace/*.json")}
            time.sleep(0.2)
    assert job.returncode == 0
    assert len(seen) == 2
    assert sum(batch.num_rows for batch in Store.open(str(store)).scan(["image_id"])) == IMAGES
    sent = [(request.time, tokens_of(request)) for request in server.requests]
    assert len(sent) == IMAGES
    minutes = [sum(tokens for at, tokens in sent if began <= at < began + 60) for began, _ in sent]
    assert 0.8 * LIMIT <= max(minutes) <= 1.1 * LIMIT
