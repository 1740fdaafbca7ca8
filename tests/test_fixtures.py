"""What an earlier version made is carried on with: a refresh redoes no row, and training resumes.

A failure here means that a fingerprint, an identity or a format changed, which redoes every user's work. Give a new
option a default that leaves results as they are (schemas/fingerprint.py) rather than building the fixtures again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.jobs import cli
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from tests.builders.data.fixtures import IMAGES, RESULTS, half_trained, set_times
from tests.builders.model.training import StopAfter, train_alone

BUNDLE = "41f850ba9e9206b7fb14cb354207f6a7b09b33822dabb625ade100ec5971e98d"
FINGERPRINTS = {
    "features": "760bd526a16458806d61b65a949c86ed",
    "hdf5": "760bd526a16458806d61b65a949c86ed",
    "captions": "aa6137bbe166138ba410cf5a4b09bdd8",
}


@pytest.fixture
def results(tmp_path):
    """A copy of the fixtures, with the photographs' recorded times."""
    folder = Path(shutil.copytree(RESULTS, tmp_path / "results"))
    set_times(folder / "photos")
    return folder


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_refresh_redoes_no_row(results, name):
    """The fixtures were made at another place: rows of images count as moved, and are copied by content."""
    url, totals = str(results / name), results / "totals.json"
    before = values(url)
    assert cli.main(["refresh", url, "--totals", str(totals)]) == 0
    found = json.loads(totals.read_text())
    assert (found["rows"] - found.get("reused", 0), found["failed"]) == (0, 0)
    assert values(url) == before
    assert len(before) == IMAGES
    assert Store.open(url).fingerprint == FINGERPRINTS[name]
    assert [problem for problem in verify(url).problems if "models/" not in str(problem)] == []


def values(url: str) -> dict[str, object]:
    store = Store.open(url)
    rows: dict[str, object] = {}
    for batch in store.scan(["image_id", store.column]):
        column = batch.column(store.column)
        found = column.to_numpy_ndarray().tolist() if store.shape else column.to_pylist()
        rows.update(zip(batch.column("image_id").to_pylist(), found, strict=True))
    return rows


def test_a_bundles_hash_is_what_it_was(results):
    bundle = Bundle.load(str(results / "bundle"))
    bundle.save(str(results / "again"))
    config = json.loads((results / "again" / "config.json").read_text())
    assert (bundle.sha256, config["sha256"]) == (BUNDLE, BUNDLE)
    assert Store.open(str(results / "captions")).spec["bundle"] == BUNDLE


def test_a_stopped_training_resumes_to_the_same_bits_however_often_it_is_stopped(results):
    once, twice = results / "training", results / "again"
    shutil.copytree(once, twice)
    trainer, events = train_alone(half_trained(once))
    assert (events[0]["epoch"], events[0]["step"]) == (1, 1)
    train_alone(half_trained(twice), StopAfter(1))
    again, _ = train_alone(half_trained(twice))
    ours, theirs = (each.decoder.state_dict() for each in (trainer, again))
    assert all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in ours)


def test_an_option_that_a_stopped_training_did_not_know_has_its_default(results):
    latest = results / "training/checkpoints/latest.json"
    record = json.loads(latest.read_text())
    del record["identity"]["clip"]
    latest.write_text(json.dumps(record))
    _, events = train_alone(half_trained(results / "training"))
    assert events[-1]["event"] == "epoch"
