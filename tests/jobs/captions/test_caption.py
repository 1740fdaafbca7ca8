"""``captionbeam caption`` through the console script: a real encoder, a tiny decoder, images, features, one picture."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.schemas import Store
from captionbeam.schemas.store import layout
from tests.builders.model.models import make_bundle, make_decoder, make_tokenizer
from tests.builders.running.commands import ROOT, captionbeam, environment

IMAGES = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photographs, their features, and a bundle that was made for them."""
    folder = tmp_path_factory.mktemp("made")
    photos = folder / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        Image.fromarray(random.integers(0, 255, (40, 50, 3), np.uint8)).save(photos / f"{number:02d}.jpg")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    captionbeam("encode", photos, "--output", folder / "features", "--encoder", "efficientnet_lite0",
                "--precision", "fp32", "--batch-size", 4, "--warn-failures", 1)  # fmt: skip
    store = Store.open(str(folder / "features"))
    (weights,) = Path(store.models_url).glob("*.safetensors")
    tokenizer = make_tokenizer()
    make_bundle(
        (dict(store.spec), str(weights)),
        decoder=make_decoder(tokenizer, store.shape),
        tokenizer=tokenizer,
        features_fingerprint=store.fingerprint,
    ).save(str(folder / "bundle"))
    return folder


def caption(made, store, *arguments, source="photos", status=0):
    where = ["--features", made / "features"] if source == "features" else [made / source]
    return captionbeam("caption", *where, "--bundle", made / "bundle", "--output", store, "--batch-size", 4,
                       "--warn-failures", 1, *arguments, status=status)  # fmt: skip


def rows(store):
    """Captions by image; log-probabilities to what a row's place in a batch of this odd size leaves of them."""
    return {
        row["image_id"]: [{**caption, "logprob": round(caption["logprob"], 3)} for caption in row["captions"]]
        for batch in Store.open(str(store)).scan(["image_id", "captions"])
        for row in batch.to_pylist()
    }


@pytest.fixture(scope="module")
def captioned(made, tmp_path_factory):
    store = tmp_path_factory.mktemp("captioned") / "store"
    caption(made, store, "--beam", 3, "--n-best", 2)
    return store


def test_every_image_has_its_captions_best_first(captioned):
    found = rows(captioned)
    assert sorted(found) == [f"{n:02d}.jpg" for n in range(IMAGES)]
    for captions in found.values():
        assert len(captions) == 2
        assert captions[0]["logprob"] >= captions[1]["logprob"]
        assert captions[0]["text"] == " ".join(captions[0]["tokens"])
    (failure,) = Store.open(str(captioned)).failures().to_pylist()
    assert (failure["image_id"], failure["stage"]) == ("broken.jpg", "decode")


def test_features_give_the_same_captions_as_images(made, captioned, tmp_path):
    caption(made, tmp_path / "s", "--beam", 3, "--n-best", 2, source="features")
    assert rows(tmp_path / "s") == rows(captioned)


def test_a_prefix_starts_every_caption_and_attention_is_kept_on_request(made, tmp_path):
    caption(made, tmp_path / "s", "--method", "greedy", "--prefix", "two cats", "--keep-attention")
    for captions in rows(tmp_path / "s").values():
        assert captions[0]["tokens"][:2] == ["two", "cats"]
        attention = np.array(captions[0]["attention"])
        assert attention.shape == (len(captions[0]["tokens"]), 49)
        assert np.allclose(attention.sum(1), 1, atol=1e-3)


def test_other_options_or_another_bundle_are_refused_on_the_same_store(made, captioned, tmp_path):
    done = caption(made, captioned, "--beam", 2, status=2)
    assert "was made with --beam 3, not 2" in done.stderr
    shutil.copytree(made / "bundle", tmp_path / "bundle")
    (tmp_path / "bundle/model.safetensors").write_bytes(b"garbage")
    done = captionbeam(
        "caption", made / "photos", "--bundle", tmp_path / "bundle", "--output", tmp_path / "s", status=2
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_one_picture_is_captioned_at_once(made):
    done = captionbeam("caption", "--bundle", made / "bundle", made / "photos/03.jpg")
    (line,) = done.stdout.splitlines()
    assert set(line.split()) <= set(make_tokenizer().decode(range(4, 12)).split())
    done = captionbeam("caption", "--bundle", made / "bundle", made / "photos", status=3)
    assert [row.split("\t")[0] for row in done.stdout.splitlines()] == [f"{n:02d}.jpg" for n in range(IMAGES)]
    assert "broken.jpg" in done.stderr
    done = captionbeam("caption", "--bundle", made / "bundle", made / "photos/99.jpg", status=2)
    assert done.stderr.count("\n") == 1


@pytest.mark.engines
def test_killed_and_started_again_nothing_is_lost_or_doubled(made, captioned, tmp_path):
    store = tmp_path / "store"
    command = ["caption", made / "photos", "--bundle", made / "bundle", "--output", store, "--batch-size", 4,
               "--warn-failures", 1, "--beam", 3, "--n-best", 2, "--shard-size", 1]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "captionbeam", *map(str, command)], env=environment(), cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while len(layout.committed_shards(str(store))) < 5 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = layout.committed_shards(str(store))
    done = captionbeam(*command)
    assert rows(store) == rows(captioned)
    assert before <= set(Store.open(str(store)).manifest.column("shard").to_pylist())
    assert f"in {IMAGES + 1 - len(before)} shards" in done.stdout


def test_the_store_keeps_the_bundle(captioned, made):
    (kept,) = Path(captioned, "models").iterdir()
    assert Bundle.load(str(kept)).sha256 == Bundle.load(str(made / "bundle")).sha256
