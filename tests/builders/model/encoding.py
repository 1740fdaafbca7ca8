"""A few drawn photographs, an encoder made for them, and what it says of them."""

from __future__ import annotations

import numpy as np

from captionbeam.capmodel.encoders.encoder import Encoder, EncoderSpec, resolve_encoder, store_weights
from tests.builders.data.images import drawn, encoded

SIZES = [(90, 70), (64, 64), (70, 120), (200, 80), (65, 64), (64, 100), (30, 40), (128, 96)]
PHOTOS = [encoded(drawn(width, height), "JPEG") for width, height in SIZES]
NAMES = [f"{number}.jpg" for number in range(len(PHOTOS))]


def stored(tmp_path, name="efficientnet_lite0", weights=None, **options) -> tuple[EncoderSpec, str]:
    """An encoder of 64 pixels in float32, unless told otherwise, and its weights in a store."""
    options = {"image_size": 64, "precision": "fp32", **options}
    spec, state = resolve_encoder(name, weights, **options)
    return spec, store_weights(state, str(tmp_path / "models"))


def features(encoder: Encoder, photos=PHOTOS) -> np.ndarray:
    batch = [encoder.prepare(photo) for photo in photos]
    return encoder.run(batch, NAMES[: len(batch)])[encoder.spec.output]
