"""A store's whole life on a GCS and on an S3 server: what holds on a disk holds there."""

from __future__ import annotations

import json
import time

from captionbeam.pipelines.maintenance.compact import compact
from captionbeam.pipelines.maintenance.export import export
from captionbeam.pipelines.maintenance.history import roll_back
from captionbeam.pipelines.maintenance.purge import purge
from captionbeam.pipelines.maintenance.vacuum import vacuum
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout, tags
from tests.builders.data.history import advance, outcomes

IMAGES = dict.fromkeys("abcdefgh", "1")


def later():
    """A clock that is two days ahead."""
    return time.time() + 48 * 3600


def test_a_store_in_a_bucket_is_looked_after_like_one_on_a_disk(bucket):
    url = f"{bucket.url}/stores/features"
    advance(url, IMAGES, fails={"a": "timeout", "b": "decode"})
    advance(url, {**IMAGES, "c": "2"})
    tags.set_tag(url, "prod", 2)
    roll_back(url, layout.load_snapshot(url, 1))
    roll_back(url, Store.open(f"{url}@prod").snapshot)
    before = outcomes(Store.open(url))
    assert verify(url).problems == []

    export(Store.open(url), f"{bucket.url}/out", "jsonl", rows_per_file=3)
    names = ["_export.json", "_schema.json", "part-00000.jsonl", "part-00001.jsonl", "part-00002.jsonl"]
    assert files.names(f"{bucket.url}/out") == names
    lines = b"".join(files.read_bytes(f"{bucket.url}/out/{name}") for name in names[2:]).splitlines()
    assert {json.loads(line)["image_id"] for line in lines} == before[0].keys()

    assert vacuum(url, 1, 24) != []  # snapshots and their own commits; files are young
    assert layout.snapshot_ids(url) == [2, 4]
    compact(url, 0.2, 256)
    assert outcomes(Store.open(url)) == before
    purge(url, {"d", "e"})
    assert outcomes(Store.open(url))[0].keys() == before[0].keys() - {"d", "e"}
    assert verify(url).problems == []
    vacuum(url, 1, 24, clock=later)
    assert layout.snapshot_ids(url) == [2, 6]
    assert verify(url).problems == []
    assert outcomes(Store.open(f"{url}@prod"))[0].keys() == before[0].keys() - {"d", "e"}
