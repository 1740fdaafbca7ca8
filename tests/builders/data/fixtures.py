"""Builds tests/fixtures/results: what a released version made, small: python -m tests.builders.data.fixtures

photos/            drawn photographs
features/, hdf5/   their features in Parquet and HDF5, by efficientnet_lite0, without the weights in models/
bundle/            a tiny captioner of such features
captions/          its captions of features/, likewise without models/
training/          features, tokens and checkpoints of a training that was stopped halfway

They are built once: a change of them means that fingerprints changed, which redoes every user's work.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.jobs import cli
from captionbeam.schemas import Store
from tests.builders.data.images import drawn, encoded
from tests.builders.model.models import make_bundle, make_decoder, make_tokenizer
from tests.builders.model.training import StopAfter, make_data, tiny_options, train_alone

RESULTS = Path(__file__).parents[2] / "fixtures" / "results"
WORK = Path("/tmp/captionbeam-fixtures")  # what the stores' records name
TIME = 1_700_000_000  # seconds: the photographs' modification time, which is part of a local file's version
IMAGES = 4
ENCODER = ["--encoder", "efficientnet_lite0", "--image-size", "64", "--precision", "fp32", "--pooled"]


def set_times(photos: Path) -> None:
    """Sets the photographs' modification time, which a checkout does not keep."""
    for path in photos.iterdir():
        os.utime(path, (TIME, TIME))


def half_trained(folder: Path) -> TrainOptions:
    """The options of the training in ``folder``."""
    data = {name: str(folder / name) for name in ("features", "tokens")}
    return tiny_options(data, folder, epochs=2, batch_size=4, precision="fp32", ema=0.5)


def run(*arguments: str | Path) -> None:
    """Runs one command in this process."""
    assert cli.main([str(argument) for argument in arguments]) == 0


def build(folder: Path) -> None:
    """Makes everything in ``folder``, which must be new."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for number in range(IMAGES):
        (photos / f"{number}.png").write_bytes(encoded(drawn(40 + number, 32), "PNG"))
    set_times(photos)
    run("encode", photos, "--output", folder / "features", *ENCODER)
    run("encode", photos, "--output", folder / "hdf5", "--format", "hdf5", *ENCODER)
    store, tokenizer = Store.open(str(folder / "features")), make_tokenizer()
    decoder = make_decoder(tokenizer, store.shape, architecture="lstm", image_bottleneck=2)
    bundle = make_bundle(
        (dict(store.spec), None),
        decoder=decoder,
        tokenizer=tokenizer,
        features_fingerprint=store.fingerprint,
    )
    bundle.save(str(folder / "bundle"))
    run("caption", "--features", folder / "features", "--bundle", folder / "bundle", "--output", folder / "captions",
        "--beam", "2")  # fmt: skip
    make_data(folder / "training", train=12, val=2)
    train_alone(half_trained(folder / "training"), StopAfter(5))
    for unneeded in ("features/models", "hdf5/models", "captions/models", "training/logs"):
        shutil.rmtree(folder / unneeded)
    for records in folder.glob("*/plans/*/workers"):
        shutil.rmtree(records)


if __name__ == "__main__":
    shutil.rmtree(WORK, ignore_errors=True)
    build(WORK)
    shutil.rmtree(RESULTS, ignore_errors=True)
    shutil.copytree(WORK, RESULTS)
